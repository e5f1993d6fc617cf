/* report: what the command says, and how it ends. */
#ifndef BLKGATE_GATEWAY_CLI_REPORT_H
#define BLKGATE_GATEWAY_CLI_REPORT_H

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USE = 100, EXIT_SYSTEM = 111 };

/* A line on standard error; returns `status`. */
int report_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A member of a JSON object on standard output, and what follows it; `value` is printable. */
void report_json(const char *key, const char *value, const char *after);

/* EXIT_DONE if all that was printed is written (standard output may be a full disk). */
int report_end(void);

#endif
