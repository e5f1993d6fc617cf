#include "player.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WARMUP_PART   0.2 /* of the seconds that count */
#define SECONDS_MAX   600
#define NS_PER_SECOND 1e9

uint64_t player_warmup_ns(const struct run *run)
{
    return (uint64_t)(run->seconds * WARMUP_PART * NS_PER_SECOND);
}

/* The rest of a line that said `run`. */
static bool run_parse(char *words, struct run *ret)
{
    char *name = strtok(words, " \n"), *depth = strtok(NULL, " \n"), *seconds = strtok(NULL, " \n");
    char *word;

    memset(ret, 0, sizeof(*ret));
    if (!seconds)
        return false;
    ret->pattern = pattern_find(name);
    ret->depth = (unsigned)strtoul(depth, NULL, 10);
    ret->seconds = strtod(seconds, NULL);
    while ((word = strtok(NULL, " \n"))) {
        if (strcmp(word, "syscalls") == 0)
            ret->syscalls = true;
        else if (strcmp(word, "merged") == 0)
            ret->merged = true;
        else
            return false;
    }
    return ret->pattern && ret->depth > 0 && ret->depth <= PLAYER_DEPTH_MAX && ret->seconds > 0 &&
           ret->seconds <= SECONDS_MAX;
}

static void figure(const char *name, double value)
{
    printf(", \"%s\": %.4f", name, value);
}

static void outcome_print(const struct run *run, const struct outcome *out)
{
    double seconds = (double)out->wall_ns / NS_PER_SECOND;
    double ios = out->ios > 0 ? (double)out->ios : 1;

    printf("{\"pattern\": \"%s\", \"depth\": %u, \"ios\": %llu, \"errors\": %llu, \"wrong\": %llu",
           run->pattern->name, run->depth, (unsigned long long)out->ios,
           (unsigned long long)out->errors, (unsigned long long)out->wrong);
    figure("seconds", seconds);
    figure("iops", (double)out->ios / seconds);
    figure("bytes_per_s", (double)out->ios * run->pattern->bytes / seconds);
    figure("p50_us", histogram_us(&out->latency, 0.5));
    figure("p99_us", histogram_us(&out->latency, 0.99));
    figure("p999_us", histogram_us(&out->latency, 0.999));
    figure("max_us", (double)out->latency.max_ns / 1000);
    figure("cpu_us_per_request", (double)out->cpu_ns / 1000 / ios);
    figure("player_cpu_us_per_request", (double)out->own_cpu_ns / 1000 / ios);
    figure("server_cpu_us_per_request", (double)out->server_cpu_ns / 1000 / ios);
    if (out->syscalls >= 0)
        figure("syscalls", (double)out->syscalls / ios);
    if (out->guest) {
        figure("ring_requests", (double)out->ring_requests / ios);
        figure("grant_copy_calls", (double)out->copy_calls / ios);
        figure("copy_batches", (double)out->copy_batches / ios);
        figure("copy_ops", (double)out->copy_ops / ios);
        figure("notifies", (double)out->notifies / ios);
        figure("guest_notifies", (double)out->guest_notifies / ios);
    }
    printf("}\n");
}

static int complain(const char *what)
{
    printf("{\"error\": \"%s\"}\n", what);
    fflush(stdout);
    return 1;
}

static int line_obey(const struct player *player, char *line)
{
    static struct outcome out;
    struct run run;
    int err;

    if (strncmp(line, "fill", 4) == 0 && player->fill) {
        err = player->fill(player->arg);
        if (err)
            return complain(strerror(-err));
        printf("{\"filled\": true}\n");
    } else if (strncmp(line, "run ", 4) == 0 && run_parse(line + 4, &run)) {
        memset(&out, 0, sizeof(out));
        err = player->run(player->arg, &run, &out);
        if (err)
            return complain(strerror(-err));
        outcome_print(&run, &out);
    } else {
        return complain("no such command");
    }
    fflush(stdout);
    return 0;
}

int player_obey(const struct player *player)
{
    char *line = NULL;
    size_t room = 0;
    int failed = 0;

    printf("{\"ready\": true}\n");
    fflush(stdout);
    while (!failed && getline(&line, &room, stdin) > 0)
        failed = line_obey(player, line);
    free(line);
    return failed;
}
