/* One rank of a fault case, as run_fault.sh sees it: it writes its process id to DIRECTORY/pid.RANK, and what it found
 * wrong, or "ok", to DIRECTORY/result.RANK. The last rank is the one that misbehaves. */
#ifndef HISA_TESTS_FAULT_H
#define HISA_TESTS_FAULT_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "hisa/hisa.h"

/* This process. */
static struct {
    const char *directory;
    int rank;
} fault_self;

static inline void fault_write(const char *name, const char *text) {
    char path[4096];
    char done[4096];
    snprintf(path, sizeof path, "%s/.%s.%d", fault_self.directory, name, fault_self.rank);
    snprintf(done, sizeof done, "%s/%s.%d", fault_self.directory, name, fault_self.rank);
    FILE *file = fopen(path, "w");
    if (file == NULL || fputs(text, file) < 0 || fclose(file) != 0 || rename(path, done) != 0) {
        perror(path);
        exit(EXIT_FAILURE);
    }
}

static inline void fault_begin(const char *directory, int rank) {
    char pid[32];
    fault_self.directory = directory;
    fault_self.rank = rank;
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    fault_write("pid", pid);
}

/* Ends this rank with its verdict: a printf text of what was wrong, or "ok". Without MPI_Finalize, which may wait for a
 * lost rank for ever. */
__attribute__((format(printf, 1, 2), noreturn)) static inline void verdict(const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fault_write("result", text);
    exit(EXIT_SUCCESS);
}

/* text: a part of the message that there must be, or NULL. */
static inline void expect(const char *what, hisa_status_t got, hisa_status_t wanted, const char *text) {
    if (got != wanted) {
        verdict("%s: got '%s' (%s), not '%s'", what, hisa_status_string(got), hisa_last_error(),
                hisa_status_string(wanted));
    }
    if (text != NULL && strstr(hisa_last_error(), text) == NULL) {
        verdict("%s: \"%s\" lacks \"%s\"", what, hisa_last_error(), text);
    }
}

/* ---------------------------------------------------------------------------------------------- ends of a rank */

static inline void stop_now(int signal) {
    (void)signal;
    raise(SIGSTOP);
}

static inline void kill_now(int signal) {
    (void)signal;
    raise(SIGKILL);
}

static inline void exit_now(int signal) {
    (void)signal;
    _exit(EXIT_SUCCESS);
}

/* By name: stop, kill or exit. */
static inline void (*end_of(const char *how))(int) {
    return strcmp(how, "stop") == 0 ? stop_now : strcmp(how, "kill") == 0 ? kill_now : exit_now;
}

/* Has this process ended by `end` somewhere in what it does next. */
static inline void end_soon(void (*end)(int), int milliseconds) {
    const struct sigaction action = {.sa_handler = end};
    const struct itimerval timer = {.it_value = {.tv_usec = 1000L * milliseconds}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
}

#endif
