/* Which rows kept a block: (row, kept block) pairs in runs by block, cut into batches. The order of batches, and of
 * rows in them, is that in which threads arrive; scores go by place, so it changes nothing. */
#ifndef HISA_CUDA_HOPPER_PAIRS_CUH
#define HISA_CUDA_HOPPER_PAIRS_CUH

#include <stdint.h>

/* Rows a batch, a lane of the feeding warp each: a block's 16 KB of keys are loaded once for 32 rows of 8 KB. Of 32, 64
 * and 128 the best by 1 to 5%, as batches are dealt out one by one. */
#define HISA_BATCH_ROWS 32

typedef struct hisa_pair {
    int32_t source; /* the row's place in q and weights */
    int32_t place;  /* where its scores go, in blocks */
} hisa_pair_t;

typedef struct hisa_batch {
    int32_t slot;
    int32_t begin; /* first pair */
    int32_t count;
} hisa_batch_t;

/* Scratch of hisa_cuda_launch_hopper_pairs. */
typedef struct hisa_pairs {
    int32_t *batches;    /* how many */
    int32_t *cursor;     /* pairs dealt out; directly after `batches` */
    int32_t *ticket;     /* batches taken; directly after `cursor` */
    int32_t *count;      /* [slots]: rows that kept the block; directly after `ticket` */
    int32_t *begin;      /* [slots]: its first pair */
    int32_t *turn;       /* [rows][width]: which of the block's rows this is */
    hisa_pair_t *pair;   /* [rows * width] */
    hisa_batch_t *batch; /* [rows * width] at the most */
} hisa_pairs_t;

#endif
