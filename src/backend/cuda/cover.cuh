/* Mode block: the tokens that whole blocks cover, as a bitmap. */
#ifndef HISA_CUDA_COVER_CUH
#define HISA_CUDA_COVER_CUH

#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"

/* Tokens [begin, end) of each kept block, of the last one taken only the lowest cut_tokens in sight. */
static __device__ void hisa_cover_bitmap(const hisa_shard_t &shard, const hisa_row_t &row, int32_t width,
                                         const int32_t *kept, int32_t cut_block, int64_t cut_tokens, uint16_t *bits) {
    const int64_t words = shard.block_size / 16;
    for (int64_t i = threadIdx.x; i < width * words; i += HISA_PICK_THREADS) {
        const int32_t block = kept[i / words];
        uint32_t word = 0;
        if (block >= 0) {
            int64_t begin;
            int64_t end;
            hisa_tokens_in_sight(shard, row, block, &begin, &end);
            end = block == cut_block ? begin + cut_tokens : end;
            for (int64_t bit = 0; bit < 16; ++bit) {
                const int64_t token = i % words * 16 + bit;
                word |= token >= begin && token < end ? 1u << bit : 0;
            }
        }
        bits[i] = static_cast<uint16_t>(word);
    }
}

#endif
