/*
 * options: blkgated's command line.
 *
 * Exit status, as s6 has it: 0 done, 1 the configuration is wrong, 100 wrong use, 111 the system
 * failed us (and trying again later may help).
 */
#ifndef BLKGATE_GATEWAY_OPTIONS_H
#define BLKGATE_GATEWAY_OPTIONS_H

#include <stdbool.h>

enum exit_status { EXIT_DONE = 0, EXIT_CONFIG = 1, EXIT_USE = 100, EXIT_SYSTEM = 111 };

struct options {
    const char *path; /* of the configuration */
    bool check;
};

/* Answers --help, --version and wrong use itself: returns the status to exit with, -1 to go on. */
int options_parse(int argc, char **argv, struct options *ret_options);

/* What was printed only counts once it is written (stdout may be a full disk): EXIT_DONE, or
 * EXIT_SYSTEM after saying so. */
int options_print_done(void);

#endif
