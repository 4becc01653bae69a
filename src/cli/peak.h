/* How many floating-point operations one core can do: the yardstick for the scoring rates that bench prints. */
#ifndef HISA_CLI_PEAK_H
#define HISA_CLI_PEAK_H

/* Runs f32 multiply-adds that wait for nothing, on this thread, for about a fifth of a second. Returns the best rate
 * seen, in floating-point operations a second (a multiply-add is two); *name is the instruction set used. */
double cli_peak_flops(const char **name);

#endif
