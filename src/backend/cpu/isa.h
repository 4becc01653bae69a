/* The inner loops, once for each instruction set, and the choice among them. All give the same bits: a product of two
 * e4m3 values is exact in f32, so a fused multiply-add rounds exactly as a multiply and an add, and every sum has one
 * order, lane by lane over keys, ascending in d and in h. */
#ifndef HISA_CPU_ISA_H
#define HISA_CPU_ISA_H

#include <stdint.h>

/* Keys of a panel, and heads of a group: 8 heads by 32 keys are 16 AVX-512 registers of sums, as many as hide the
 * latency of a fused multiply-add and leave room for the operands. */
enum { HISA_CPU_PANEL = 32, HISA_CPU_HEADS = 8 };

typedef struct hisa_cpu_isa {
    const char *name;
    /* dots[h][s] = sum_d q[h / 8][d][h % 8] * panel[d][s] for h in [0, 8 * groups), s in [0, 32). Arrays are 64-byte
     * aligned; all values are those of e4m3 codes. */
    void (*dots)(const float *q, int64_t groups, int64_t head_dim, const float *panel, float *dots);
    /* score[s] = scale[s] * sum_h w[h] * max(0, dots[h][s]), s in [0, 32). */
    void (*head_sum)(const float *dots, const float *w, int64_t heads, const float *scale, float *score);
    /* Codes of 32 keys, key s at codes + s * head_dim, to panel[d][s] in f32. `keys` of them are there, the others
     * become 0. */
    void (*decode_panel)(const uint8_t *codes, int64_t keys, int64_t head_dim, float *panel);
} hisa_cpu_isa_t;

/* The best one that this processor runs. */
const hisa_cpu_isa_t *hisa_cpu_isa_best(void);

/* Those that this processor runs, best first; NULL past the last. */
const hisa_cpu_isa_t *hisa_cpu_isa_at(int place);

/* Its name: "avx512", "avx2" or "portable". */
const char *hisa_cpu_isa_name(void);

#endif
