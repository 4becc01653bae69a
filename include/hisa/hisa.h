/* hisa: sharded, hierarchical, deterministic token selection for DeepSeek-style sparse attention.
 *
 * The public interface. It includes no MPI, NCCL or CUDA header; hisa_mpi.h and hisa_nccl.h do.
 *
 * Conventions, unless a comment says otherwise:
 *   - arrays are dense and row-major, the last index runs fastest; sizes and positions count from 0;
 *   - "positions" are token positions in a sequence, "rows" are queries;
 *   - data pointers (keys, queries, results, workspace) are memory of the index's backend: host memory for the CPU
 *     backend, device memory for the CUDA backend. Configuration and option structs are always host memory;
 *   - a call is *local* (no communication) or *collective* (each rank of the communicator must make it, in the same
 *     order, with equal arguments where the comment does not say "may differ");
 *   - every call returns a status, 0 is success. Outputs come last and are written on success only. hisa_last_error()
 *     gives the thread's last message in one line;
 *   - an object may be used by one thread at a time; different objects may be used by different threads.
 */
#ifndef HISA_H
#define HISA_H

#include <stddef.h>
#include <stdint.h>

#include "hisa/hisa_version.h"

#if defined(__GNUC__)
#define HISA_API __attribute__((visibility("default")))
#else
#define HISA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------- status */

/* X(enumerator, code, text). Codes are part of the ABI: append, never renumber. */
#define HISA_STATUS_MAP(X)                                                                                             \
    X(HISA_OK, 0, "success")                                                                                           \
    X(HISA_ERR_INVALID_ARGUMENT, 1, "invalid argument")                                                                \
    X(HISA_ERR_UNSUPPORTED, 2, "not supported by this build, backend or communicator")                                 \
    X(HISA_ERR_NO_MEMORY, 3, "out of memory")                                                                          \
    X(HISA_ERR_WORKSPACE, 4, "workspace missing, misaligned or too small")                                             \
    X(HISA_ERR_CAPACITY, 5, "the index is full")                                                                       \
    X(HISA_ERR_MISMATCH, 6, "ranks disagree on arguments or state")                                                    \
    X(HISA_ERR_TIMEOUT, 7, "a peer did not answer within the deadline")                                                \
    X(HISA_ERR_COMM, 8, "communication failed")                                                                        \
    X(HISA_ERR_POISONED, 9, "the communicator failed earlier and can only be destroyed")                               \
    X(HISA_ERR_IO, 10, "input or output failed")                                                                       \
    X(HISA_ERR_FORMAT, 11, "malformed file")                                                                           \
    X(HISA_ERR_DEVICE, 12, "device error")                                                                             \
    X(HISA_ERR_INTERNAL, 13, "internal error (a defect in hisa)")

typedef enum hisa_status {
#define HISA_STATUS_ENUM(name, code, text) name = (code),
    HISA_STATUS_MAP(HISA_STATUS_ENUM)
#undef HISA_STATUS_ENUM
} hisa_status_t;

/* The status' text: static storage, never NULL. Local, thread-safe. */
HISA_API const char *hisa_status_string(hisa_status_t status);

/* What went wrong in the last failing hisa call of the calling thread: one line without newline, "" if none failed yet.
 * The text lives until the thread's next failing hisa call. Local, thread-safe. */
HISA_API const char *hisa_last_error(void);

/* Version of the library that runs (HISA_VERSION_* are those it was compiled against). Any pointer may be NULL. */
HISA_API void hisa_version(int *major, int *minor, int *patch);

/* ---------------------------------------------------------------------------------------------- communicators */

/* An ordered group of ranks 0..size-1. Opaque. It must outlive the indexes made on it. */
typedef struct hisa_comm hisa_comm_t;

/* A group of one: no communication. Local. Needs no library. */
HISA_API hisa_status_t hisa_comm_create_self(hisa_comm_t **comm);

/* The caller's own all-gather over host memory: buffer holds `size` parts of `bytes` bytes, part r at r*bytes; this
 * rank's own part is filled in, and on return the others' are. Returns 0 on success, HISA_ERR_TIMEOUT if a peer has not
 * answered within `seconds`, anything else on another failure. It is called by every rank, in the same order. */
typedef int (*hisa_host_allgather_t)(void *context, void *buffer, int64_t bytes, double seconds);

/* A communicator of `size` ranks, of which this is number `rank`, over the caller's own all-gather, for engines that
 * have no MPI. It is for control only: what is made on it is another communicator (hisa_nccl.h), not an index of
 * several ranks. Collective: the ranks make sure that they run the same version of hisa and are numbered as the
 * all-gather has them. A rank that cannot call the all-gather (it is NULL, or rank or size are out of range, or there
 * is no memory) fails alone; the others then depend on the all-gather's deadline, 60 s. `context` is passed on as it is
 * and must live as long as the communicator. */
HISA_API hisa_status_t hisa_comm_create_host(int rank, int size, hisa_host_allgather_t allgather, void *context,
                                             hisa_comm_t **comm);

/* Releases the communicator; NULL is allowed. For a communicator in good health this is collective; for a poisoned one
 * it is local and gives up, rather than waits for, whatever was under way. */
HISA_API void hisa_comm_destroy(hisa_comm_t *comm);

/* Local queries. A NULL comm gives 0, 0 and "". The name is "self", "mpi", "nccl" or "host". */
HISA_API int hisa_comm_rank(const hisa_comm_t *comm);
HISA_API int hisa_comm_size(const hisa_comm_t *comm);
HISA_API const char *hisa_comm_name(const hisa_comm_t *comm);

/* Seconds that a collective waits for a peer before it returns HISA_ERR_TIMEOUT and poisons the communicator; the
 * default is 60. Local, but ranks do well to agree. seconds must be finite and greater than 0. Read by each wait as it
 * begins, so it may be changed between calls.
 *
 * On a device a wait cannot tell a lost peer from work that takes long: it counts from the moment when the host begins
 * to wait, whatever is on the stream, the caller's own kernels and graph replays included. So the deadline must be
 * longer than all that is ever on a stream when hisa_index_synchronize, or hisa_select by owner merge, is called with
 * it, on the slowest rank. Where a queue may be longer, synchronise more often, or set a longer deadline before the
 * wait. */
HISA_API hisa_status_t hisa_comm_set_deadline(hisa_comm_t *comm, double seconds);

/* What a data call over the communicator takes, for HISA_EXCHANGE_AUTO: `latency` seconds, and a second more for each
 * `bandwidth` bytes that a rank receives. Never changes a result. Each kind of communicator begins with figures of its
 * own: "mpi" with 30 us and 4 GB/s, of ranks on one host, "nccl" with 16 us and 260 GB/s, of two H200 over NVLink.
 * `hisa info --measure` takes them on the machine at hand. Read by hisa_index_create, which checks that they are equal
 * on all ranks (HISA_ERR_MISMATCH): later changes leave an index that is there as it is. latency must be finite and at
 * least 0, bandwidth finite and greater than 0, or it is HISA_ERR_INVALID_ARGUMENT and nothing changes. Both local,
 * host only, without any stream. hisa_comm_cost reads them; either pointer may be NULL, and a NULL comm leaves both as
 * they are. */
HISA_API hisa_status_t hisa_comm_set_cost(hisa_comm_t *comm, double latency, double bandwidth);
HISA_API void hisa_comm_cost(const hisa_comm_t *comm, double *latency, double *bandwidth);

/* Collective over host memory: makes one outcome of the ranks' local outcomes. `status` (may differ) is this rank's
 * own, `message` (may differ, may be NULL, used only where status is not HISA_OK) its cause in one line. Returns
 * HISA_OK on every rank if every rank passed HISA_OK; otherwise every rank returns the status of the lowest rank that
 * failed, and hisa_last_error() reads "rank R: MESSAGE" on each. HISA_ERR_TIMEOUT or HISA_ERR_COMM: a peer did not
 * answer within the deadline, and the communicator is poisoned; HISA_ERR_POISONED: it was. Waits for no stream. */
HISA_API hisa_status_t hisa_comm_agree(hisa_comm_t *comm, hisa_status_t status, const char *message);

/* ---------------------------------------------------------------------------------------------- index */

typedef enum hisa_backend {
    HISA_BACKEND_AUTO = 0, /* CUDA where it is built in and a device is present, else CPU */
    HISA_BACKEND_CPU = 1,
    HISA_BACKEND_CUDA = 2
} hisa_backend_t;

/* stripe value: one contiguous range of blocks a rank, stripe = ceil(capacity / (ranks * block_size)). */
#define HISA_STRIPE_CONTIGUOUS ((int64_t)0)

typedef struct hisa_index_config {
    size_t struct_size;          /* set by hisa_index_config_init */
    hisa_backend_t backend;      /* default HISA_BACKEND_AUTO */
    int device;                  /* CUDA device ordinal, -1: the calling thread's current one (default). May differ */
    int threads;                 /* CPU backend: threads to use; 0 (default): the OpenMP default. Never changes a
                                    result. May differ */
    int32_t head_dim;            /* D: elements of a key, a multiple of 16 up to 256. Default 128 */
    int32_t num_heads;           /* H: query heads, 1 to 128. Default 64 */
    int32_t block_size;          /* B: tokens of a block, a power of two from 16 to 256. Default 128 */
    int32_t num_sequences;       /* sequences held, at least 1. Default 1 */
    int64_t capacity;            /* tokens a sequence may reach, 1 to 2^31 - 1 - B. No default: must be set */
    int64_t stripe;              /* consecutive blocks a rank owns before the next rank's turn, or
                                    HISA_STRIPE_CONTIGUOUS. Default 1 */
    const int32_t *rank_offsets; /* host, [num_sequences], each 0 <= o < ranks: the rank that owns a sequence's block 0;
                                    NULL (default): all 0. Read during create only */
} hisa_index_config_t;

HISA_API void hisa_index_config_init(hisa_index_config_t *config);

/* Index keys of one or more sequences, sharded by block over the ranks of a communicator:
 *     owner(sequence, block b) = (b / stripe + rank_offsets[sequence]) mod ranks
 * with block b of a sequence holding positions [b*B, (b+1)*B). Each rank holds keys, scales and pooled keys of its own
 * blocks. Opaque. */
typedef struct hisa_index hisa_index_t;

/* Collective. Storage for `capacity` tokens of each sequence is taken here; no later call allocates. The index starts
 * empty and refers to comm until it is destroyed. */
HISA_API hisa_status_t hisa_index_create(const hisa_index_config_t *config, hisa_comm_t *comm, hisa_index_t **index);

/* Local. NULL is allowed. Does not destroy the communicator. */
HISA_API void hisa_index_destroy(hisa_index_t *index);

typedef enum hisa_keys_on {
    HISA_KEYS_REPLICATED = 0, /* each rank passes all the tokens and stores those it owns */
    HISA_KEYS_LOCAL = 1       /* each rank passes only the tokens it owns, in ascending position */
} hisa_keys_on_t;

/* Appends tokens [length, length + num_tokens) to a sequence and refreshes the pooled keys of the blocks they touch.
 * keys: e4m3 codes, [num_tokens][D] (or [own tokens][D] for HISA_KEYS_LOCAL), key_scales: f32, [num_tokens] (or [own
 * tokens]), each > 0 and finite. Both are backend memory, 16-byte aligned for CUDA, read in stream order and not kept.
 * Local, but every rank must make the same calls: select checks that lengths agree. stream: a cudaStream_t for CUDA
 * (NULL: the default stream), ignored by the CPU backend, which has finished when the call returns.
 * HISA_ERR_UNSUPPORTED: the stream is being captured into a graph, of which no change of an index can be part.
 * HISA_ERR_CAPACITY: the sequence would outgrow its capacity; nothing is appended. */
HISA_API hisa_status_t hisa_index_append(hisa_index_t *index, int32_t sequence, int64_t num_tokens, const void *keys,
                                         const float *key_scales, hisa_keys_on_t keys_on, void *stream);

/* Drops all tokens at positions >= new_length (0 <= new_length <= length) and refreshes the pooled key of the block
 * that was cut: rollback of speculative tokens, reuse of a sequence. Local, every rank must make the same calls. */
HISA_API hisa_status_t hisa_index_truncate(hisa_index_t *index, int32_t sequence, int64_t new_length, void *stream);

/* Replaces the tokens of blocks [first_block, first_block + num_blocks), all of which must hold tokens, and refreshes
 * their pooled keys; the length does not change. keys and key_scales are as in append, for positions
 * [first_block*B, min((first_block + num_blocks)*B, length)). Local, every rank must make the same calls. */
HISA_API hisa_status_t hisa_index_overwrite(hisa_index_t *index, int32_t sequence, int64_t first_block,
                                            int64_t num_blocks, const void *keys, const float *key_scales,
                                            hisa_keys_on_t keys_on, void *stream);

/* Tokens of the sequence over all ranks, and those this rank stores. Local. */
HISA_API hisa_status_t hisa_index_length(const hisa_index_t *index, int32_t sequence, int64_t *length);
HISA_API hisa_status_t hisa_index_local_length(const hisa_index_t *index, int32_t sequence, int64_t *length);

/* The law of ownership, for engines that place their own cache by it. `position` may be at or past the length, below
 * the capacity. owner: the rank that stores it. slot: its place among that rank's tokens of the sequence, as `local`
 * results name it. Either may be NULL. Local. */
HISA_API hisa_status_t hisa_index_locate(const hisa_index_t *index, int32_t sequence, int64_t position, int *owner,
                                         int64_t *slot);

/* The backend in use: HISA_BACKEND_CPU or HISA_BACKEND_CUDA, and its bytes held by this index on this rank. */
HISA_API hisa_backend_t hisa_index_backend(const hisa_index_t *index);
HISA_API int64_t hisa_index_bytes(const hisa_index_t *index);

/* ---------------------------------------------------------------------------------------------- select */

/* What is computed for a query t with heads h, over positions s of its sequence (arXiv 2603.28458, DeepSeek-V3.2):
 *     token score   I(t,s) = k_scale[s] * sum_h w[t,h] * max(0, sum_d q[t,h,d] * k[s,d])
 *     pooled key    p = e4m3(mean / p_scale), p_scale = max(max|mean| / 448, 1e-10), mean over the block's stored
 *                   tokens of k_scale[s] * k[s,:]
 *     block score   J(t,b) = p_scale[b] * sum_h w[t,h] * max(0, sum_d q[t,h,d] * p[b,d])
 * all in f32. A dot product that is NaN counts as 0 in max(0, .). */
typedef enum hisa_mode {
    HISA_MODE_HISA = 0, /* candidates: the tokens in sight of the m kept blocks */
    HISA_MODE_FLAT = 1, /* candidates: all tokens in sight; top_blocks, sink_blocks and local_blocks are not used */
    HISA_MODE_BLOCK = 2 /* whole blocks, kept first and then by block score, until k tokens are covered; the last block
                           taken gives its lowest positions. top_blocks is not used; no token scores exist */
} hisa_mode_t;

typedef enum hisa_exchange {
    HISA_EXCHANGE_AUTO = 0,    /* by a cost model; none on one rank */
    HISA_EXCHANGE_OWNER = 1,   /* rows are dealt to owners that merge: least bytes, for many rows */
    HISA_EXCHANGE_ONESHOT = 2, /* one fixed-size all-gather, everything on every rank: least latency, for few rows */
    HISA_EXCHANGE_LISTS = 3    /* what engines do without this library, to compare with, never chosen by AUTO: all ranks
                                  gather all block lists, and then all lists of k (score, position), and all merge all
                                  rows. In modes flat and block that is ONESHOT */
} hisa_exchange_t;

typedef enum hisa_queries_on {
    HISA_QUERIES_REPLICATED = 0, /* every rank passes the same rows */
    HISA_QUERIES_SHARDED = 1     /* each rank passes rows of its own, possibly none; all rows together are those of rank
                                    0, then rank 1, ... */
} hisa_queries_on_t;

typedef enum hisa_placement {
    HISA_PLACE_REPLICATED = 0, /* all rows on every rank */
    HISA_PLACE_OWNER = 1,      /* a rank gets its own rows: those it passed if queries are sharded, else rows
                                  [M*rank/ranks, M*(rank+1)/ranks) of the M rows (integer division) */
    HISA_PLACE_LOCAL = 2 /* for all rows, the selected tokens that this rank stores, as slots (hisa_index_locate) in
                            ascending order */
} hisa_placement_t;

/* flags */
#define HISA_SELECT_UNCHECKED                                                                                          \
    1u /* skip the agreement on arguments across ranks, one small host collective: the caller                          \
          vouches that they agree. Sharded queries then need rows_per_rank. A call that is refused on one rank, for    \
          whatever cause, is then refused there alone: nobody else is told, and the others' streams wait for it. The   \
          caller of the refused one reports it by hisa_comm_agree with its status */
#define HISA_SELECT_TIMED                                                                                              \
    2u /* measure the time of each step (hisa_index_stats). On CUDA by events, of which the first timed calls make a   \
          few, and which are read before the call returns: it waits for the stream, and cannot be captured */

typedef struct hisa_select_options {
    size_t struct_size;           /* set by hisa_select_options_init */
    hisa_mode_t mode;             /* default HISA_MODE_HISA */
    hisa_exchange_t exchange;     /* default HISA_EXCHANGE_AUTO. Never changes a result */
    hisa_queries_on_t queries_on; /* default HISA_QUERIES_REPLICATED */
    hisa_placement_t placement;   /* default HISA_PLACE_REPLICATED */
    int32_t top_blocks;           /* m, default 64. Mode hisa needs m*B >= k and m >= sink_blocks + local_blocks */
    int32_t top_k;                /* k, default 2048 */
    int32_t sink_blocks;          /* first blocks in sight that are always kept, default 1 */
    int32_t local_blocks;         /* last blocks in sight that are always kept, default 1 */
    int32_t tile_rows; /* rows of a tile, 0 (default): chosen by the library. Never changes a result. By owner
                          merge on a GPU up to three tiles are in flight */
    uint32_t flags;    /* HISA_SELECT_*, default 0 */
} hisa_select_options_t;

HISA_API void hisa_select_options_init(hisa_select_options_t *options);

typedef struct hisa_queries {
    size_t struct_size;           /* set by hisa_queries_init */
    int64_t num_rows;             /* M, rows passed by this rank; may differ if sharded */
    const void *q;                /* e4m3 codes, [M][H][D], 16-byte aligned for CUDA */
    const float *weights;         /* f32, [M][H], of either sign, the query's own scale folded in; aligned likewise */
    const int32_t *sequence;      /* [M], the row's sequence; NULL (default): all 0 */
    const int32_t *window_begin;  /* ks [M]; NULL (default): all 0 */
    const int32_t *window_end;    /* ke [M], 0 <= ks <= ke <= length; NULL (default): the sequence's length */
    const int64_t *rows_per_rank; /* host, [ranks]: every rank's M; NULL (default): agreed by the call. Only used if
                                     queries are sharded */
} hisa_queries_t;

HISA_API void hisa_queries_init(hisa_queries_t *queries);

/* Where results go; R rows by the placement. Caller's memory, of the backend. */
typedef struct hisa_selection {
    size_t struct_size; /* set by hisa_selection_init */
    int32_t *indices;   /* [R][k]: selected positions (slots if local), ascending, padded with -1 */
    int32_t *counts;    /* [R]: entries that are not padding; may be NULL, but not if local */
    float *scores;      /* [R][k]: token scores of the entries, padded with 0; -0 is given as 0, any NaN as the quiet
                           one. NULL (default): none. Not in mode block */
} hisa_selection_t;

HISA_API void hisa_selection_init(hisa_selection_t *selection);

/* Bytes of workspace that hisa_select needs with these options on calls of up to max_rows rows, counted over all ranks
 * if queries are sharded. Does not depend on the sequences' current length. Local; equal arguments give equal sizes on
 * all ranks. */
HISA_API hisa_status_t hisa_select_workspace_size(const hisa_index_t *index, const hisa_select_options_t *options,
                                                  int64_t max_rows, size_t *bytes);

/* Selects, for each row, the first min(k, candidates) candidates in the total order: higher score first, equal scores
 * by lower position, -0 equal to +0, NaN last. The result is the same bytes for any number of ranks, stripe, chunking
 * of appends, tiling and exchange. Collective. workspace: backend memory, 256-byte aligned, of at least the size asked
 * for with the same options; its content need not survive between calls. stream as in append.
 *
 * On CUDA the call enqueues and returns, but for the owner merge: it reads sizes back, a few bytes a tile, and so
 * returns when little more than a tile is left to be done. Its exchanges run on a stream of the index's own, beside the
 * scoring of other tiles; the caller's stream waits for them.
 *
 * On CUDA a one-shot call can be captured in a graph: a replay reads queries, windows and sequences' lengths as they
 * then are. A call that waits (HISA_EXCHANGE_OWNER but in mode block, HISA_SELECT_TIMED) is HISA_ERR_UNSUPPORTED on a
 * stream that is being captured, and the capture goes on.
 *
 * Errors are agreed: every rank returns the same status before anything is enqueued, and the selection is not written.
 * With HISA_SELECT_UNCHECKED only the rank that refuses knows of it. It calls hisa_comm_agree with the status; the
 * others, which wait in hisa_index_synchronize, meet it there once their deadline has passed, and all return that
 * status with the communicator poisoned. They may have begun to wait later: before it agrees, the refusing rank sets a
 * deadline (hisa_comm_set_deadline) that is longer than theirs by as much as the ranks may be apart.
 *
 * A lost peer gives HISA_ERR_TIMEOUT or HISA_ERR_COMM, here or from
 * hisa_index_synchronize, and poisons the communicator; the selection and the workspace are then undefined, and must
 * stay allocated until the communicator is destroyed. */
HISA_API hisa_status_t hisa_select(hisa_index_t *index, const hisa_queries_t *queries,
                                   const hisa_select_options_t *options, const hisa_selection_t *selection,
                                   void *workspace, size_t workspace_bytes, void *stream);

/* Waits until what was enqueued on the stream has been done. To be used after hisa_select where others would
 * synchronise the stream: over NCCL a lost peer leaves work on it that never ends, and this call gives up on it.
 * HISA_ERR_TIMEOUT or HISA_ERR_COMM: a peer was lost, or the stream did not get here within the communicator's deadline
 * from when the call began, be it only for want of time (hisa_comm_set_deadline says what follows from that; a single
 * rank waits without a deadline); the ranks that can still be reached agree on one status,
 * the communicator is poisoned, and the selection is undefined, as if hisa_select had failed. HISA_ERR_DEVICE: what was
 * enqueued failed. Returns at once on the CPU backend. Local as long as all goes well. Not while the stream is being
 * captured. */
HISA_API hisa_status_t hisa_index_synchronize(hisa_index_t *index, void *stream);

/* ---------------------------------------------------------------------------------------------- statistics */

/* X(enumerator, name): the way of a query, in order. */
#define HISA_STEP_MAP(X)                                                                                               \
    X(HISA_STEP_GATHER_QUERIES, "gather queries")                                                                      \
    X(HISA_STEP_SCORE_BLOCKS, "score blocks")                                                                          \
    X(HISA_STEP_MERGE_BLOCKS, "merge blocks")                                                                          \
    X(HISA_STEP_SCORE_TOKENS, "score tokens")                                                                          \
    X(HISA_STEP_MERGE_TOKENS, "merge tokens")                                                                          \
    X(HISA_STEP_EMIT, "emit")

typedef enum hisa_step {
#define HISA_STEP_ENUM(name, text) name,
    HISA_STEP_MAP(HISA_STEP_ENUM)
#undef HISA_STEP_ENUM
        HISA_STEP_COUNT
} hisa_step_t;

typedef struct hisa_step_stats {
    double seconds;          /* only from calls with HISA_SELECT_TIMED */
    double exchange_seconds; /* of those, what the data calls between ranks took, waiting for peers included */
    int64_t bytes_sent;      /* to other ranks */
    int64_t bytes_received;  /* from other ranks */
    int64_t keys_scored;     /* (row, key) pairs, pooled keys included, scored by this rank */
} hisa_step_stats_t;

typedef struct hisa_stats {
    size_t struct_size;       /* set by the caller to sizeof(hisa_stats_t) */
    int64_t calls;            /* hisa_select calls that succeeded */
    int64_t rows;             /* rows of those calls, over all ranks */
    hisa_exchange_t exchange; /* of the last call, never AUTO */
    hisa_step_stats_t steps[HISA_STEP_COUNT];
} hisa_stats_t;

/* Sums over hisa_select calls on this rank since creation or the last reset. Local. */
HISA_API hisa_status_t hisa_index_stats(const hisa_index_t *index, hisa_stats_t *stats);
HISA_API hisa_status_t hisa_index_stats_reset(hisa_index_t *index);
HISA_API const char *hisa_step_name(hisa_step_t step);

/* ---------------------------------------------------------------------------------------------- audit */

/* One measure over the audited rows. Percentiles are by nearest rank: the value at sorted place ceil(p * rows). */
typedef struct hisa_audit_figure {
    double mean;
    double p1;
    double p10;
    double worst;
    int64_t worst_row; /* of all rows together; the lowest, if several tie */
} hisa_audit_figure_t;

/* A mode against flat, over rows whose flat selection F is not empty; S is the mode's selection:
 *     recall = |S & F| / |F|,  iou = |S & F| / |S | F|,
 *     mass   = sum over S & F of max(0, I) / sum over F of max(0, I), and 1 where the latter is 0. */
typedef struct hisa_audit_mode {
    hisa_audit_figure_t recall;
    hisa_audit_figure_t mass;
    hisa_audit_figure_t iou;
} hisa_audit_mode_t;

typedef struct hisa_audit_report {
    size_t struct_size; /* set by the caller to sizeof(hisa_audit_report_t) */
    int64_t rows;       /* rows audited */
    int64_t rows_empty; /* of those, rows without candidates: not part of the figures */
    hisa_audit_mode_t hisa;
    hisa_audit_mode_t block;
} hisa_audit_report_t;

/* Called for each audited row, in order, with host arrays of ascending positions. */
typedef void (*hisa_audit_row_fn)(void *context, int64_t row, const int32_t *flat, int64_t flat_count,
                                  const int32_t *hisa, int64_t hisa_count, const int32_t *block, int64_t block_count);

/* Measures how much of the exact (flat) selection modes hisa and block keep, on the rows given. options->mode and
 * ->placement are not used. Collective; queries as in hisa_select; the report is the same on every rank. row_fn may be
 * NULL (it may differ) and must not call hisa. A diagnostic: it allocates, and synchronises the stream. */
HISA_API hisa_status_t hisa_audit(hisa_index_t *index, const hisa_queries_t *queries,
                                  const hisa_select_options_t *options, hisa_audit_row_fn row_fn, void *context,
                                  void *stream, hisa_audit_report_t *report);

#ifdef __cplusplus
}
#endif
#endif
