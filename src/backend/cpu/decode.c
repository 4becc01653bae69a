/* Codes to panels of f32, turned so that keys are lanes. */
#include <string.h>

#include "backend/e4m3.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"

/* Turns 8 rows of 8 bytes: byte i of row j becomes byte j of row i. Three rounds of swaps, of 1, 2 and 4 bytes. */
HISA_CPU_BODY void turn_8x8(uint64_t row[8]) {
    static const uint64_t mask[3] = {0x00FF00FF00FF00FFu, 0x0000FFFF0000FFFFu, 0x00000000FFFFFFFFu};
    for (int round = 0; round < 3; ++round) {
        const int distance = 1 << round;
        for (int i = 0; i < 8; ++i) {
            if ((i & distance) == 0) {
                const uint64_t swap = (row[i] >> (8 * distance) ^ row[i + distance]) & mask[round];
                row[i + distance] ^= swap;
                row[i] ^= swap << (8 * distance);
            }
        }
    }
}

HISA_CPU_BODY void decode_panel(const uint8_t *restrict codes, int64_t keys, int64_t head_dim, float *restrict panel) {
    for (int64_t d = 0; d < head_dim; d += 8) {
        uint8_t turned[8][HISA_CPU_PANEL];
        for (int s = 0; s < HISA_CPU_PANEL; s += 8) {
            uint64_t row[8] = {0};
            for (int i = 0; i < 8; ++i) {
                if (s + i < keys) {
                    memcpy(&row[i], codes + (s + i) * head_dim + d, sizeof row[i]);
                }
            }
            turn_8x8(row);
            for (int i = 0; i < 8; ++i) {
                memcpy(&turned[i][s], &row[i], sizeof row[i]);
            }
        }
        const uint8_t *flat = &turned[0][0];
        float *out = panel + d * HISA_CPU_PANEL;
        for (int i = 0; i < 8 * HISA_CPU_PANEL; ++i) {
            out[i] = hisa_e4m3_to_float(flat[i]);
        }
    }
}

void hisa_cpu_decode_panel_portable(const uint8_t *codes, int64_t keys, int64_t head_dim, float *panel) {
    decode_panel(codes, keys, head_dim, panel);
}

#if defined(HISA_CPU_X86)
HISA_CPU_AVX2 void hisa_cpu_decode_panel_avx2(const uint8_t *codes, int64_t keys, int64_t head_dim, float *panel) {
    decode_panel(codes, keys, head_dim, panel);
}

HISA_CPU_AVX512 void hisa_cpu_decode_panel_avx512(const uint8_t *codes, int64_t keys, int64_t head_dim, float *panel) {
    decode_panel(codes, keys, head_dim, panel);
}
#endif
