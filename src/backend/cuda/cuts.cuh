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

#endif
