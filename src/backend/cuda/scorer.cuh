/* Which code scores: kernels are templates over a scorer, launchers choose one. A scorer has
 *   shared_t, keys_t   what a thread block shares, and what a thread holds of a panel of HISA_SCORE_KEYS keys
 *   load, score        as in hisa_score_mma_t; a score depends on its own row and key alone, whatever else the block
 * did BLOCKS             thread blocks of a multiprocessor that its registers are cut for */
#ifndef HISA_CUDA_SCORER_CUH
#define HISA_CUDA_SCORER_CUH

#include "backend/cuda/kernels.h"
#include "backend/cuda/score.cuh"
#include "backend/cuda/score_mma.cuh"

/* Calls launch(scorer) with one of the scorer's type and returns what it returns. EXACT: sums over d that lose nothing
 * on exactly representable traces whatever their values (score_mma.cuh). */
template <bool EXACT, typename Launch>
static cudaError_t hisa_with_scorer(hisa_cuda_scorer_t scorer, int32_t dim, Launch launch) {
    if (scorer == HISA_CUDA_SCORER_F32) {
        return launch(hisa_score_f32_t{});
    }
    switch ((dim + 63) / 64) {
    case 1:
        return launch(hisa_score_mma_t<1, EXACT>{});
    case 2:
        return launch(hisa_score_mma_t<2, EXACT>{});
    case 3:
        return launch(hisa_score_mma_t<3, EXACT>{});
    default:
        return launch(hisa_score_mma_t<4, EXACT>{});
    }
}

/* Into how many pieces a row's panels are cut for that many rows: thread blocks for some ten rounds of an H100, and
 * beyond those as few as keep a row's queries staged for 8 panels. */
static inline int64_t hisa_panel_pieces(int64_t rows, int64_t panels) {
    const int64_t enough = hisa_ceil_div(4096, hisa_max(1, rows));
    return hisa_min(panels, hisa_max(enough, hisa_ceil_div(panels, 8)));
}

#endif
