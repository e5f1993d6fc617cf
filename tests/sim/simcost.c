#include "simcost.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define COST_MAX_NS 1000000u

static pthread_once_t read_once = PTHREAD_ONCE_INIT;
static uint64_t batch_ns, notify_ns;

static uint64_t setting(const char *name)
{
    const char *text = getenv(name);
    unsigned long long value;
    char *end;

    if (!text)
        return 0;
    value = strtoull(text, &end, 10);
    if (end == text || *end || value > COST_MAX_NS) {
        fprintf(stderr, "sim: %s=%s is no number of nanoseconds up to %u\n", name, text,
                COST_MAX_NS);
        abort();
    }
    return value;
}

static void settings_read(void)
{
    batch_ns = setting("BLKGATE_SIM_BATCH_NS");
    notify_ns = setting("BLKGATE_SIM_NOTIFY_NS");
}

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now); /* read from the TSC, without a system call */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* By its place, as it is not known before the settings are read. */
static void spend(const uint64_t *cost_ns)
{
    uint64_t end_ns;

    pthread_once(&read_once, settings_read);
    if (*cost_ns == 0)
        return;
    end_ns = clock_ns() + *cost_ns;
    while (clock_ns() < end_ns)
        ;
}

void sim_cost_batch(void)
{
    spend(&batch_ns);
}

void sim_cost_notify(void)
{
    spend(&notify_ns);
}
