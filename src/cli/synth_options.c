#include "cli/synth_options.h"

#include <stddef.h>

static error_t parse_family(cli_options_t *options, const char *text, hisa_synth_config_t *config) {
    static const char *const names[] = {"drift", "exact", NULL};
    int place = 0;
    const error_t error = cli_parse_word(options, "family", text, names, &place);
    config->family = (hisa_synth_family_t)place;
    if (config->family == HISA_SYNTH_EXACT) {
        config->num_needles = 0; /* it has none; --needles after this is refused by the check */
    }
    return error;
}

static error_t parse_seed(cli_options_t *options, const char *text, hisa_synth_config_t *config) {
    int64_t seed = 0;
    const error_t error = cli_parse_int(options, "seed", text, 0, INT64_MAX, &seed);
    config->seed = (uint64_t)seed;
    return error;
}

error_t cli_parse_synth(cli_options_t *options, int key, const char *arg, hisa_synth_config_t *config) {
    switch (key) {
    case CLI_KEY_SYNTH_FAMILY:
        return parse_family(options, arg, config);
    case CLI_KEY_SYNTH_ROWS:
        return cli_parse_int(options, "rows", arg, 0, INT32_MAX, &config->num_rows);
    case CLI_KEY_SYNTH_HEADS:
        return cli_parse_int32(options, "heads", arg, 1, INT32_MAX, &config->num_heads);
    case CLI_KEY_SYNTH_HEAD_DIM:
        return cli_parse_int32(options, "head-dim", arg, 1, INT32_MAX, &config->head_dim);
    case CLI_KEY_SYNTH_NEEDLES:
        return cli_parse_int32(options, "needles", arg, 0, INT32_MAX, &config->num_needles);
    case CLI_KEY_SYNTH_NEIGHBOURS:
        return cli_parse_int32(options, "neighbours", arg, 1, INT32_MAX, &config->neighbours);
    case CLI_KEY_SYNTH_SEED:
        return parse_seed(options, arg, config);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}
