/*
 * backend: the xenstore thread. Finds vbds of all served kinds (vbd, qdisk, vbd3) below
 * /local/domain/OURS/backend, gives each a struct vbd, and forgets them when they are gone.
 *
 * It owns the xs connection and all vbds, and runs its own libev loop; libxenstore's calls block,
 * which is why no I/O happens on this thread (law 7).
 */
#ifndef BLKGATE_GATEWAY_BACKEND_H
#define BLKGATE_GATEWAY_BACKEND_H

struct backend;
struct config;
struct worker;

/* Connects to xenstore, scans once, starts the thread. `config` and `workers` must outlive it. */
int backend_start(const struct config *config, struct worker *const *workers, unsigned worker_count,
                  struct backend **ret_backend);

/* Asks every server whether its export has grown; guests see the new size. Any thread, at once. */
void backend_probe(struct backend *backend);

/* Clean stop: every connected disk is suspended while its xenstore state stays as it is (a later
 * start takes it up again, see vbd.h); returns when all disks have ENDED.
 * -ETIMEDOUT after LIMIT_STOP_MS if some have not: then nothing may be freed, the process can only
 * exit. NULL is fine. */
int backend_stop(struct backend *backend);

#endif
