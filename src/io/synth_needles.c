/* Where the needles of the drift family are: see hisa_needle_plan_t. */
#include "base/checked.h"
#include "io/synth_internal.h"

static int64_t greatest_divisor(int64_t a, int64_t b) {
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* x with a * x = 1 (mod size), for a coprime to size: Euclid's algorithm, keeping a's factor. */
static int64_t invert(int64_t a, int64_t size) {
    int64_t rest = size;
    int64_t next_rest = a % size;
    int64_t factor = 0;
    int64_t next_factor = 1;
    while (next_rest != 0) {
        const int64_t quotient = rest / next_rest;
        const int64_t newer_rest = rest - quotient * next_rest;
        const int64_t newer_factor = factor - quotient * next_factor;
        rest = next_rest;
        next_rest = newer_rest;
        factor = next_factor;
        next_factor = newer_factor;
    }
    return factor < 0 ? factor + size : factor;
}

void hisa_needle_plan(const hisa_synth_config_t *config, hisa_needle_plan_t *plan) {
    *plan = (hisa_needle_plan_t){0};
    const int64_t rows = config->num_rows;
    if (config->family != HISA_SYNTH_DRIFT || rows == 0 || config->num_needles == 0) {
        return;
    }
    plan->needles = config->num_needles;
    plan->rows = rows;
    const int64_t front = hisa_synth_least_end(config, 0);
    const int64_t back = hisa_synth_least_end(config, rows / 2) - front;
    const int64_t behind = rows - rows / 2;
    plan->half = back >= behind ? rows / 2 : rows;
    plan->front_slots = rows * (plan->needles - 1) + plan->half;
    plan->front_width = front / hisa_max(plan->front_slots, 1);
    plan->back_begin = front;
    plan->back_width = back / behind;
    const int64_t sizes[3] = {rows, plan->half, rows - plan->half};
    for (int i = 0; i < 3; ++i) {
        const int64_t size = hisa_max(sizes[i], 1);
        int64_t multiplier = 1 + hisa_below(hisa_key(config, HISA_DRAW_NEEDLE_SLOT, -1 - i), size);
        while (greatest_divisor(multiplier, size) != 1) {
            ++multiplier;
        }
        plan->multiplier[i] = multiplier % size;
        plan->inverse[i] = invert(multiplier, size);
    }
}

/* A stratum: rows [first, first + rows) in as many slots. */
typedef struct stratum {
    int64_t first;
    int64_t rows;
    int64_t begin; /* position of its first slot */
    int64_t width;
    int64_t shift;
    int kind; /* place of its permutation in the plan */
} stratum_t;

/* Stratum i: n-1 is the last in front, n the one behind. */
static stratum_t find_stratum(const hisa_synth_config_t *config, const hisa_needle_plan_t *plan, int64_t i) {
    stratum_t stratum = {.first = 0,
                         .rows = plan->rows,
                         .begin = i * plan->rows * plan->front_width,
                         .width = plan->front_width,
                         .kind = 0};
    if (i == plan->needles - 1) {
        stratum.rows = plan->half;
        stratum.kind = 1;
    } else if (i == plan->needles) {
        stratum.first = plan->half;
        stratum.rows = plan->rows - plan->half;
        stratum.begin = plan->back_begin;
        stratum.width = plan->back_width;
        stratum.kind = 2;
    }
    stratum.shift = hisa_below(hisa_key(config, HISA_DRAW_NEEDLE_SLOT, i), stratum.rows);
    return stratum;
}

static int64_t place_in_slot(const hisa_synth_config_t *config, const stratum_t *stratum, int64_t slot) {
    const int64_t begin = stratum->begin + slot * stratum->width;
    return begin + hisa_below(hisa_key(config, HISA_DRAW_NEEDLE_PLACE, begin), stratum->width);
}

int64_t hisa_needle_position(const hisa_synth_config_t *config, const hisa_needle_plan_t *plan, int64_t row,
                             int64_t i) {
    const int behind = i == plan->needles - 1 && row >= plan->half;
    const stratum_t stratum = find_stratum(config, plan, i + behind);
    /* All factors are below 2^31. */
    const int64_t slot = (plan->multiplier[stratum.kind] * (row - stratum.first) + stratum.shift) % stratum.rows;
    return place_in_slot(config, &stratum, slot);
}

int64_t hisa_needle_row(const hisa_synth_config_t *config, const hisa_needle_plan_t *plan, int64_t position) {
    if (plan->needles == 0) {
        return -1;
    }
    int64_t i = plan->needles;
    int64_t slot = 0;
    if (position < plan->back_begin) {
        slot = plan->front_slots == 0 ? 0 : position / plan->front_width;
        if (slot >= plan->front_slots) {
            return -1;
        }
        i = slot / plan->rows;
        slot -= i * plan->rows;
    } else {
        const int64_t rows = plan->rows - plan->half;
        if (rows == 0 || (position - plan->back_begin) / plan->back_width >= rows) {
            return -1;
        }
        slot = (position - plan->back_begin) / plan->back_width;
    }
    const stratum_t stratum = find_stratum(config, plan, i);
    if (place_in_slot(config, &stratum, slot) != position) {
        return -1;
    }
    const int64_t turned = (slot - stratum.shift + stratum.rows) % stratum.rows;
    return stratum.first + plan->inverse[stratum.kind] * turned % stratum.rows;
}
