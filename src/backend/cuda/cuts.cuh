/* The segments of a tile as a kernel's parameter: a launch's parameters are few KB, so they come in groups of ranks. */
#ifndef HISA_CUDA_CUTS_CUH
#define HISA_CUDA_CUTS_CUH

#include "backend/cuda/launch.cuh"

enum { HISA_CUTS = 128 };

struct hisa_cuts_t {
    int32_t first; /* rank */
    int32_t count;
    int32_t begin[HISA_CUTS]; /* of each rank's rows in the tile */
    int32_t rows[HISA_CUTS];
};

static inline hisa_cuts_t hisa_cuts_of(const hisa_segment_t *segments, int32_t ranks, int32_t first) {
    hisa_cuts_t cuts = {first, ranks - first < HISA_CUTS ? ranks - first : HISA_CUTS, {0}, {0}};
    for (int32_t i = 0; i < cuts.count; ++i) {
        cuts.begin[i] = static_cast<int32_t>(segments[first + i].tile_begin);
        cuts.rows[i] = static_cast<int32_t>(segments[first + i].rows);
    }
    return cuts;
}

/* Segments of a tile as a kernel's parameter, whole, for a launch over all their rows. */
enum { HISA_SEGMENTS = 64 };

struct hisa_segments_t {
    int64_t rows; /* of all */
    int32_t count;
    hisa_segment_t segment[HISA_SEGMENTS];
};

/* The next of segments [*next, n), as many as a launch takes: with `output`, those that have results to write. */
static inline hisa_segments_t hisa_segments_of(const hisa_segment_t *segments, int32_t n, bool output, int32_t *next) {
    hisa_segments_t group = {0, 0, {}};
    for (; *next < n && group.count < HISA_SEGMENTS; ++*next) {
        const hisa_segment_t &segment = segments[*next];
        if (segment.rows > 0 && (!output || segment.output_begin >= 0)) {
            group.segment[group.count++] = segment;
            group.rows += segment.rows;
        }
    }
    return group;
}

/* The segment of the group's row *r, which becomes the row's place in it. */
static __device__ __forceinline__ const hisa_segment_t &hisa_segment_of(const hisa_segments_t &group, int64_t *r) {
    int32_t i = 0;
    while (*r >= group.segment[i].rows) {
        *r -= group.segment[i++].rows;
    }
    return group.segment[i];
}

#endif
