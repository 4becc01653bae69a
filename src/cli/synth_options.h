/* The options that describe a synthetic trace: those of `hisa synth`, and of `hisa bench` without files. */
#ifndef HISA_CLI_SYNTH_OPTIONS_H
#define HISA_CLI_SYNTH_OPTIONS_H

#include "cli/options.h"
#include "io/synth.h"

enum {
    CLI_KEY_SYNTH_KEYS = 0x300,
    CLI_KEY_SYNTH_QUERIES,
    CLI_KEY_SYNTH_TOKENS,
    CLI_KEY_SYNTH_FAMILY,
    CLI_KEY_SYNTH_ROWS,
    CLI_KEY_SYNTH_HEADS,
    CLI_KEY_SYNTH_HEAD_DIM,
    CLI_KEY_SYNTH_NEEDLES,
    CLI_KEY_SYNTH_NEIGHBOURS,
    CLI_KEY_SYNTH_SEED
};

/* Entries of an argp option table. `rows` is the default number of rows, in quotes. */
#define CLI_SYNTH_OPTIONS(rows, group)                                                                                 \
    {"family",                                                                                                         \
     CLI_KEY_SYNTH_FAMILY,                                                                                             \
     "drift|exact",                                                                                                    \
     0,                                                                                                                \
     "drift (default): topics that drift, with planted needles. exact: exact in f32, full of ties",                    \
     group},                                                                                                           \
        {"rows", CLI_KEY_SYNTH_ROWS, "N", 0, "Queries (default " rows ")", group},                                     \
        {"heads", CLI_KEY_SYNTH_HEADS, "H", 0, "Heads of a query (default 64)", group},                                \
        {"head-dim", CLI_KEY_SYNTH_HEAD_DIM, "D", 0, "Elements of a key (default 128)", group},                        \
        {"needles", CLI_KEY_SYNTH_NEEDLES, "N", 0, "Needles planted for each query, drift only (default 4)", group},   \
        {"neighbours",                                                                                                 \
         CLI_KEY_SYNTH_NEIGHBOURS,                                                                                     \
         "N",                                                                                                          \
         0,                                                                                                            \
         "Queries that stand at consecutive positions (default 1: spread evenly)",                                     \
         group},                                                                                                       \
    {                                                                                                                  \
        "seed", CLI_KEY_SYNTH_SEED, "N", 0, "Seed of the random numbers (default 1)", group                            \
    }

/* One of the options above; ARGP_ERR_UNKNOWN for any other key. */
error_t cli_parse_synth(cli_options_t *options, int key, const char *arg, hisa_synth_config_t *config);

#endif
