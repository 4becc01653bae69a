/* Which rows kept a block: (row, kept block) pairs in runs by block, cut into batches. The order of batches, and of
 * rows in them, is that in which threads arrive; scores go by place, so it changes nothing. */
#ifndef HISA_CUDA_HOPPER_PAIRS_CUH
#define HISA_CUDA_HOPPER_PAIRS_CUH

#include <stdint.h>

/* Thread blocks of hopper_tokens.cu that share a multiprocessor. */
#define HISA_TOKENS_RESIDENT 3

/* Rows a batch at the most, a lane of the feeding warp each: a block's 16 KB of keys are loaded once for 32 rows of
 * 8 KB. Of 32, 64 and 128 the best by 1 to 5% of one rank's 4096 rows. With fewer pairs a batch has fewer rows, down to
 * HISA_BATCH_ROWS_LEAST (18% more to load): 32 rows take a thread block some 27 us, and the last batches of a
 * call leave others idle for half of that. HISA_BATCHES_EACH: batches for each thread block that smaller ones buy. */
#define HISA_BATCH_ROWS 32
#define HISA_BATCH_ROWS_LEAST 8
#define HISA_BATCHES_EACH 8

/* Entries of the kept lists that a thread block sorts at a time. */
#define HISA_PAIR_GROUP 1024

typedef struct hisa_pair {
    int32_t source; /* the row's place in q and weights */
    int32_t place;  /* where its scores go, in blocks */
} hisa_pair_t;

typedef struct hisa_batch {
    int32_t slot;
    int32_t begin; /* first pair */
    int32_t count;
} hisa_batch_t;

/* An entry of the kept lists that this rank scores. Loaded and stored as 16 bytes. */
typedef struct hisa_pair_note {
    int32_t slot;
    int32_t turn; /* which of the slot's pairs this is */
    int32_t source;
    int32_t place;
} hisa_pair_note_t;

/* A slot's pairs. Loaded and stored as 16 bytes. */
typedef struct hisa_pair_run {
    int32_t count;
    int32_t begin; /* first pair */
    int32_t full;  /* the first of its batches that have all their rows */
    int32_t rest;  /* the one that has not, if any: counted behind all full ones */
} hisa_pair_run_t;

/* Counters of the launch, all zero before it. */
typedef struct hisa_pair_sums {
    int32_t total;  /* pairs */
    int32_t cursor; /* pairs that have a place */
    int32_t full;   /* batches with all their rows, which come first */
    int32_t rest;   /* other batches */
    int32_t ticket; /* batches taken */
    int32_t unused[3];
} hisa_pair_sums_t;

/* Scratch of hisa_cuda_launch_hopper_pairs. */
typedef struct hisa_pairs {
    int32_t takers; /* thread blocks that share the batches */
    hisa_pair_sums_t *sums;
    hisa_pair_run_t *run;   /* [slots] */
    hisa_pair_note_t *note; /* [rows * width], by group */
    int32_t *held;          /* [groups]: notes of each */
    hisa_pair_t *pair;      /* [rows * width] */
    hisa_batch_t *batch;    /* [rows * width] at the most */
} hisa_pairs_t;

#endif
