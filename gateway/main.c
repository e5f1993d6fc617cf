/*
 * main: start order, reverse teardown, signals.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "gateway/backend.h"
#include "gateway/config.h"
#include "gateway/fence.h"
#include "gateway/keep.h"
#include "gateway/keepdir.h"
#include "gateway/lock.h"
#include "gateway/log.h"
#include "gateway/options.h"
#include "gateway/resolve.h"
#include "gateway/worker.h"
#include "proto/limits.h"

/* For --check plain lines, as compilers write them, so that editors can jump to them. */
static void complain_plainly(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "%s\n", text);
}

static void complain_to_log(void *arg, const char *text)
{
    (void)arg;
    log_error(NULL, "%s", text);
}

static const char *signal_name(int number)
{
    return number == SIGTERM ? "SIGTERM" : number == SIGINT ? "SIGINT" : "SIGHUP";
}

/* Returns at SIGTERM or SIGINT. SIGHUP is an operator who made an export larger. */
static void wait_for_stop(const sigset_t *signals, struct backend *backend)
{
    for (;;) {
        const int number = sigwaitinfo(signals, NULL);

        if (number == SIGTERM || number == SIGINT) {
            log_info(NULL,
                     "stopping by %s: servers get the time to answer and flush, %d s at most "
                     "(another signal changes nothing)",
                     signal_name(number), LIMIT_STOP_MS / 1000);
            return;
        }
        if (number == SIGHUP) {
            log_info(NULL,
                     "SIGHUP: asking every server for its export's size (the configuration is "
                     "not read again: restart blkgated for that, guests only wait meanwhile)");
            backend_probe(backend);
        }
    }
}

static void log_late_signals(const sigset_t *signals)
{
    const struct timespec at_once = {0};
    int number = 0;

    while ((number = sigtimedwait(signals, NULL, &at_once)) > 0)
        log_info(NULL, "%s came during the stop and was ignored", signal_name(number));
}

static int prepare_keep(const struct config *config)
{
    char reason[1280];
    int error = keepdir_prepare(config->keep_dir, reason, sizeof(reason));

    if (error < 0)
        log_error(NULL, "not started: %s", reason);
    else if (!keepdir_fits(config->keep_dir, config->memory_bytes, reason, sizeof(reason)))
        log_warning(NULL, "%s", reason);
    keep_set_budget(config->memory_bytes);
    return error;
}

static int serve(const struct config *config, const sigset_t *signals)
{
    struct worker *workers[LIMIT_WORKERS];
    struct backend *backend = NULL;
    char reason[512];
    unsigned started = 0;
    int lock = -1;
    int status = EXIT_SYSTEM;
    int error = lock_take(config->lock_path, reason, sizeof(reason), &lock);

    if (error < 0) {
        log_error(NULL, "not started: %s", reason);
        return EXIT_SYSTEM;
    }
    if (prepare_keep(config) < 0)
        goto stop_workers;
    for (; started < config->workers; started++) {
        error = worker_start(started, &workers[started]);
        if (error < 0) {
            log_error(NULL,
                      "not started: worker %u: %s (are Xen's /dev/xen/evtchn and gntdev there?)",
                      started, strerror(-error));
            goto stop_workers;
        }
    }
    error = backend_start(config, workers, config->workers, &backend);
    if (error < 0) {
        log_error(NULL, "not started: xenstore cannot be used: %s (is xenstored running?)",
                  strerror(-error));
        goto stop_workers;
    }
    log_info(NULL, "blkgated %s serves: %zu disks configured, %u workers", BLKGATE_VERSION,
             config->disk_count, config->workers);
    sd_notifyf(0, "READY=1\nSTATUS=%zu disks configured, %u workers", config->disk_count,
               config->workers);
    wait_for_stop(signals, backend);
    sd_notify(0, "STOPPING=1\nSTATUS=waiting for servers to answer and flush");
    if (backend_stop(backend) < 0) {
        log_error(NULL,
                  "some disks could not be stopped in %d s: they are left as after a crash, "
                  "and the next start takes them up",
                  LIMIT_STOP_MS / 1000);
        _exit(EXIT_SYSTEM); /* workers still use what would be freed */
    }
    status = EXIT_DONE;

stop_workers:
    while (started > 0)
        worker_stop(workers[--started]);
    resolve_drain();
    fence_drain();
    log_late_signals(signals);
    close(lock);
    if (status == EXIT_DONE)
        log_info(NULL, "stopped");
    return status;
}

static void set_signals(sigset_t *ret_waited)
{
    signal(SIGPIPE, SIG_IGN); /* before libxenstore, which sets back what it found */
    signal(SIGCHLD, SIG_DFL); /* ignored, as by some parents, it hides how a fence program ended */
    sigemptyset(ret_waited);
    sigaddset(ret_waited, SIGTERM);
    sigaddset(ret_waited, SIGINT);
    sigaddset(ret_waited, SIGHUP);
    pthread_sigmask(SIG_BLOCK, ret_waited, NULL); /* inherited by every thread to come */
}

int main(int argc, char **argv)
{
    struct options options;
    struct config *config = NULL;
    void (*complain)(void *arg, const char *text) = NULL;
    char reason[1280];
    sigset_t signals;
    int status = options_parse(argc, argv, &options);

    if (status >= 0)
        return status;
    complain = options.check ? complain_plainly : complain_to_log;
    status = config_load(options.path, complain, NULL, &config);
    if (status < 0)
        return status == -ENOMEM ? EXIT_SYSTEM : EXIT_CONFIG;
    if (config->disk_count == 0 && !config->allow_uri)
        complain(NULL, "the configuration has no [disk NAME] and allow-uri = no: nothing can be "
                       "attached");
    if (options.check) {
        if (!keepdir_fits(config->keep_dir, config->memory_bytes, reason, sizeof(reason)))
            complain(NULL, reason);
        config_print(config, stdout);
        status = options_print_done();
    } else {
        log_set_level((enum log_level)config->log_level);
        set_signals(&signals);
        status = serve(config, &signals);
    }
    config_free(config);
    return status;
}
