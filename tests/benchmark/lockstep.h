/*
 * lockstep: guest, worker and NBD server in one thread, each of which moves only when it is told
 * to, so that what a guest request costs the worker can be counted, and comes out the same every
 * time. The worker is the daemon's own, unmodified: lockstep-disk.c hands it a disk as the
 * xenstore thread would. The server is lockstep-server.c, the rest lockstep.c.
 *
 * Functions end the process with a line on stderr when something is wrong: a count of a run that
 * was not right is worth nothing.
 */
#ifndef LOCKSTEP_H
#define LOCKSTEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct front;
struct worker;

#define LOCKSTEP_EXPORT_BYTES (UINT64_C(1) << 34)

_Noreturn void lockstep_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The bytes that belong at a place of the disk, whoever wrote them. */
void bytes_fill(void *to, uint64_t at_bytes, size_t bytes);
bool bytes_hold(const void *from, uint64_t at_bytes, size_t bytes);

/* -- a server ------------------------------------------------------------------------------ */

struct server;

/* Listens at a unix socket, and greets its one client on a thread of its own; server_ready ends
 * that thread. From then on all is done by the caller's. */
struct server *server_start(const char *path);
void server_ready(struct server *server);

/* Answers every command that has come, in the order in which they came. With `checks` a write's
 * bytes must be those of its place, and a read is given those of its. */
void server_answer(struct server *server, bool checks);
/* The same, of the oldest so many. */
void server_answer_some(struct server *server, unsigned commands, bool checks);
/* Flushes from now on wait for the second of these, and are no commands before. */
void server_hold_flushes(struct server *server);
void server_release_flush(struct server *server);
/* That were answered, ever. */
uint64_t server_commands(const struct server *server);
uint64_t server_bytes(const struct server *server);

/* -- a disk -------------------------------------------------------------------------------- */

/* A disk for the worker: the front's rings, and the server at `socket`. */
void disk_connect(struct worker *worker, const struct front *front, struct server *server,
                  const char *socket, const char *keep_dir);
struct worker *disk_worker(void);
/* After the last of them: there is no thread but the caller's. */
void disk_alone(void);

#endif
