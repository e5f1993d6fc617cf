#include "gateway/cli/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int report_fail(int status, const char *format, ...)
{
    va_list list;

    fflush(stdout);
    fputs("blkgate: ", stderr);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    return status;
}

void report_json(const char *key, const char *value, const char *after)
{
    printf("\"%s\": \"", key);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            putchar('\\');
        putchar(*value);
    }
    printf("\"%s", after);
}

int report_end(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_DONE;
    return report_fail(EXIT_SYSTEM, "standard output cannot be written: %s", strerror(errno));
}
