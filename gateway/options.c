#include "gateway/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "Usage: blkgated [-c FILE] [--check]\n"
    "\n"
    "Serves disks of Xen guests from NBD servers. Stays in the foreground, logs to stderr.\n"
    "\n"
    "  -c, --config FILE  the configuration (default: /etc/blkgate/blkgate.conf)\n"
    "      --check        only read and check it, and print what is in effect\n"
    "      --version      print the version\n"
    "  -h, --help         print this\n"
    "\n"
    "SIGTERM and SIGINT stop it: guests wait for the next start, which goes on where this one\n"
    "ended. Exit status: 0 done, 1 wrong configuration, 100 wrong use, 111 system failure.\n"
    "See blkgated(8) and blkgate.conf(5).\n";

int options_print_done(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_DONE;
    fprintf(stderr, "blkgated: standard output cannot be written: %s\n", strerror(errno));
    return EXIT_SYSTEM;
}

int options_parse(int argc, char **argv, struct options *ret_options)
{
    enum { OPTION_CHECK = 256, OPTION_VERSION };
    static const struct option known[] = {{"config", required_argument, NULL, 'c'},
                                          {"check", no_argument, NULL, OPTION_CHECK},
                                          {"version", no_argument, NULL, OPTION_VERSION},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int option = 0;

    *ret_options = (struct options){.path = "/etc/blkgate/blkgate.conf"};
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:h", known, NULL)) != -1) {
        switch (option) {
        case 'c': ret_options->path = optarg; break;
        case OPTION_CHECK: ret_options->check = true; break;
        case OPTION_VERSION: printf("blkgated %s\n", BLKGATE_VERSION); return options_print_done();
        case 'h': fputs(help, stdout); return options_print_done();
        case ':':
            fprintf(stderr, "blkgated: %s needs a file: write -c FILE\n", argv[optind - 1]);
            return EXIT_USE;
        default:
            if (optopt > 0 && optopt < OPTION_CHECK) /* of several letters, which one */
                fprintf(stderr, "blkgated: unknown option -%c: blkgated --help lists all\n",
                        optopt);
            else
                fprintf(stderr, "blkgated: unknown option %s: blkgated --help lists all\n",
                        argv[optind - 1]);
            return EXIT_USE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "blkgated: unexpected argument %s: did you mean -c %s?\n", argv[optind],
                argv[optind]);
        return EXIT_USE;
    }
    return -1;
}
