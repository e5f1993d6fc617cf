/* An event that waits to be fetched when its port is unbound, and is the only one: the loop sleeps
 * all the same. (The driver keeps it, and its descriptor stays readable until it is fetched.) */
#include "guest.h"

#include "gateway/evtchn.h"

#include <ev.h>
#include <stdio.h>

enum { DOMID = 7, SLEEP_MS = 200, TURNS_MAX = 5 };

static unsigned events;

static void on_event(void *arg)
{
    (void)arg;
    events++;
}

static void on_time(struct ev_loop *loop, struct ev_timer *timer, int revents)
{
    (void)timer;
    (void)revents;
    ev_break(loop, EVBREAK_ALL);
}

int main(void)
{
    struct guest *guest = guest_create(DOMID, 16);
    struct ev_loop *loop = ev_default_loop(0);
    struct ev_timer timer;
    struct evtchn *evtchn;
    uint32_t remote, slot, port;
    unsigned before;

    if (!guest || guest_port_alloc(guest, 0, &remote, &slot) != 0 ||
        evtchn_open(loop, &evtchn) < 0 ||
        evtchn_bind(evtchn, DOMID, remote, on_event, NULL, &port) < 0)
        return 100;
    ev_run(loop, EVRUN_NOWAIT); /* the one that a bind raises */
    evtchn_unmask(evtchn, port);
    guest_notify(guest, slot);
    evtchn_unbind(evtchn, port);
    ev_timer_init(&timer, on_time, SLEEP_MS / 1000., 0.);
    ev_timer_start(loop, &timer);
    before = ev_iteration(loop);
    ev_run(loop, 0);
    printf("%u events; %u turns while there was nothing to do\n", events,
           ev_iteration(loop) - before);
    before = ev_iteration(loop) - before;
    evtchn_close(evtchn);
    guest_destroy(guest);
    return events != 1 || before > TURNS_MAX;
}
