/*
 * evtchn: a worker's event channels on its loop; the only user of libxenevtchn.
 *
 * One handle carries all ports. A port that fired is masked until evtchn_unmask; an event that
 * arrives meanwhile stays pending, so the order is: notified() -> scan the ring -> unmask. bind
 * raises the new port at once, so a fresh ring is scanned without being kicked.
 *
 * notified() only records: it may not bind or unbind.
 */
#ifndef BLKGATE_GATEWAY_EVTCHN_H
#define BLKGATE_GATEWAY_EVTCHN_H

#include <stdint.h>

struct ev_loop;
struct evtchn;

int evtchn_open(struct ev_loop *loop, struct evtchn **ret_evtchn);
void evtchn_close(struct evtchn *evtchn); /* NULL is fine; every port is unbound */

/* -EINVAL: the guest has no such port for us, or somebody (a predecessor, too) has bound it. */
int evtchn_bind(struct evtchn *evtchn, uint32_t domid, uint32_t remote_port,
                void (*notified)(void *arg), void *arg, uint32_t *ret_port);
void evtchn_unbind(struct evtchn *evtchn, uint32_t port);
void evtchn_unmask(struct evtchn *evtchn, uint32_t port);
void evtchn_notify(struct evtchn *evtchn, uint32_t port);

#endif
