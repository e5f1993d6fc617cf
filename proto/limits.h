/*
 * limits: every bound of blkgate, each with its reason (law 10, "Bounded").
 *
 * A number that limits memory, time, descriptors, retries or log lines lives here and nowhere
 * else. Units are the last word of each name.
 */
#ifndef BLKGATE_PROTO_LIMITS_H
#define BLKGATE_PROTO_LIMITS_H

enum limits {
    /* -- sizes given by the interfaces we speak -------------------------------------------- */
    LIMIT_SECTOR_BYTES = 512,   /* blkif counts in 512-byte sectors whatever the disk is */
    LIMIT_PAGE_BYTES = 4096,    /* a grant is one 4 KiB frame on x86 and arm alike */
    LIMIT_PAGE_SECTORS = 8,     /* last_sect may be 7 at most */
    LIMIT_SEGMENTS_DIRECT = 11, /* BLKIF_MAX_SEGMENTS_PER_REQUEST, fixed by the slot's size */
    LIMIT_SEGMENTS = 256,       /* of an INDIRECT request: what xen-blkback offers (1 MiB), so what
                                   guests may use; 512 would still fit in one frame */
    LIMIT_SEGMENT_BYTES = 8,    /* one descriptor in an indirect frame */
    LIMIT_SLOT_BYTES = 112,     /* the largest ring slot of the three ABIs */
    LIMIT_RING_ORDER = 4,
    LIMIT_RING_PAGES = 16,       /* ring order 4: what xen-blkback offers, so what guests may use */
    LIMIT_RING_SLOTS = 512,      /* of so many pages, the largest power of two that fits */
    LIMIT_XENSTORE_BYTES = 2048, /* the longest value a xenstore client may write by quota */
    LIMIT_XENSTORE_PATH_BYTES = 512,   /* ours are far shorter; XENSTORE_ABS_PATH_MAX is 3072 */
    LIMIT_EXPORT_NAME_BYTES = 4096,    /* NBD's longest export name */
    LIMIT_COMMAND_BYTES = 1 << 25,     /* 32 MiB: a longer write makes qemu-nbd hang up */
    LIMIT_COMMAND_FLOOR_BYTES = 4096,  /* a server that fails this for its size fails all */
    LIMIT_GRANULARITY_BYTES = 1 << 20, /* discard granularity: beyond it guests stop trimming */
    LIMIT_TRIM_BYTES = 1 << 30,        /* NBD's lengths are 32 bits; a round number below */

    /* -- what one guest may use -------------------------------------------------------------- */
    LIMIT_QUEUES = 16,       /* rings of one disk; beyond a host's CPUs they bring nothing */
    LIMIT_DESCRIPTORS = 128, /* indirect requests of one disk whose descriptors are read (a page of
                                the slab each): twice what a connection takes */
    LIMIT_RESERVE_BYTES = (LIMIT_SEGMENTS + 1) * LIMIT_PAGE_BYTES, /* of each disk: the longest
                                 request and its descriptors; touched only when the slab is empty */
    LIMIT_RECORDS = 1 << 16,    /* of a kept file: 2 MiB, for 256 MiB of 4 KiB writes */
    LIMIT_KEPT_BYTES = 1 << 30, /* a kept file's data: more would take too long to replay */
    LIMIT_REASON_BYTES = 192,   /* an error text in xenstore and log: one line on a terminal */

    LIMIT_RECORDS_PER_DISK = 8192,    /* writes that no flush covers yet; we flush at half of it */
    LIMIT_KEPT_FLOOR_BYTES = 2 << 20, /* of them, that each disk has for itself */
    LIMIT_KEPT_PER_DISK_BYTES = 64 << 20, /* and at most: a replay of it takes a second or two */

    /* -- the daemon -------------------------------------------------------------------------- */
    LIMIT_WORKERS = 64, /* threads; more than the CPUs of a big dom0 is a mistake */
    LIMIT_DISKS = 4096, /* vbds served at once: a dom0's event channels end there */
    /* Connects under way, of URIs with names, and with addresses; beyond it they queue (256 KiB
     * stacks). */
    LIMIT_CONNECT_THREADS = 128,
    LIMIT_FENCE_THREADS = 16,      /* hooks that run at once, a process each; others queue */
    LIMIT_SLAB_BYTES = 64 << 20,   /* data in flight per worker; touched pages only cost memory */
    LIMIT_PARKED = 16,             /* lost sessions of a disk that may still execute something */
    LIMIT_PATH_BYTES = 1024,       /* of a file of ours */
    LIMIT_COMMANDS_IN_FLIGHT = 64, /* per connection: libnbd searches its list linearly */
    LIMIT_PLAN_REQUESTS = 512, /* of a disk, the oldest: a step for each that overlaps another */
    LIMIT_MERGE_BYTES =
        256 << 10, /* of neighbours in one command: beyond it a byte costs the same */
    LIMIT_MERGE_ENOUGH_BYTES = 64 << 10, /* more would gain little: no waiting for it */
    LIMIT_PIPELINE_COMMANDS = 4, /* per connection: with fewer nothing waits for its neighbours */
    LIMIT_ROUND_BYTES =
        1 << 20,               /* of a disk's, before others' turn: some 300 us to copy and send */
    LIMIT_ROUNDS_PER_TURN = 8, /* work rounds before the loop looks at its fds again */
    LIMIT_EVENTS_PER_TURN = 256,  /* event channels read before the loop turns */
    LIMIT_REPLIES_PER_TURN = 128, /* replies of one connection before another one's are read */
    LIMIT_PIECES_PER_TURN = 16,   /* of a long reply, read without asking the loop */
    LIMIT_CONFIG_BYTES = 1 << 20, /* a config file beyond it is not a config file */
    LIMIT_CONFIG_LINE_BYTES = 16 << 10, /* LIMIT_EXPORT_NAME_BYTES percent-encoded, and a socket */

    /* -- what a configuration may ask for ---------------------------------------------------- */
    LIMIT_PATHS = 8,            /* exports of a disk: two servers, four addresses each */
    LIMIT_CONNECTIONS = 16,     /* of one session: beyond a server's CPUs they bring nothing */
    LIMIT_MEMORY_MIB = 1 << 20, /* kept write data: a host has less than 1 TiB to spare */
    LIMIT_COMMAND_TIMEOUT_MS = 3600000, /* what takes longer than an hour is not answered at all */
    LIMIT_HOLD_MS = 86400000,           /* who would wait longer than a day waits for ever */
    LIMIT_FENCE_TIME_MS = 3600000,      /* writes wait for it; a hook is the better fence then */
    LIMIT_FENCE_WORDS = 32,             /* of the hook's command; a longer one is for a script */

    /* -- time -------------------------------------------------------------------------------- */
    LIMIT_CONNECT_MS = 8000,      /* one connect, handshake included: libxl waits 10 s for 2 */
    LIMIT_CONNECT_GRACE_MS = 250, /* for its helper to end it, and to say why */
    LIMIT_FENCE_MS = 30000,       /* a hook's time: a blocklist or a power switch needs seconds */
    LIMIT_FENCE_END_MS = 1000,    /* for one that was killed to be gone */
    LIMIT_CLOSE_MS = 8000,        /* answer, drain, flush, disconnect: libxl waits 10 s for 6 */
    LIMIT_CLOSE_MARGIN_MS = 1000, /* of it: for xenstore, and for a busy host */
    LIMIT_STOP_MS = 15000,        /* SIGTERM to exit, all disks; blkgated.service waits for 30 s */
    LIMIT_UNCLAIMED_MS = 3000,    /* a vbd node still in state 1: no xen-blkback will claim it */
    LIMIT_XENSTORE_HEARTBEAT_MS = 5000, /* a dead xenstored is silent: ask it */
    LIMIT_XENSTORE_RETRY_MS = 1000,
    LIMIT_XENSTORE_TRIES = 64,     /* of a transaction that others keep winning (oxenstored) */
    LIMIT_QUOTA_NODES = 1000,      /* that a domain may own, unless xenstored was told otherwise */
    LIMIT_QUOTA_WATCHES = 100,     /* likewise: oxenstored's; C xenstored allows 128 */
    LIMIT_QUOTA_NEAR_PERCENT = 80, /* from here on the operator is told */
    LIMIT_XENSTORE_EVENTS = 4096,  /* watch events taken before the loop looks elsewhere */

    LIMIT_RETRY_FIRST_MS = 100, /* between two rounds of connects to a disk's paths ... */
    LIMIT_RETRY_MS = 2000,      /* ... twice as long every time, up to this */
    LIMIT_LASTING_MS = 500, /* a session that was up for so long was worth having: from the start */
    /* TCP: nothing acknowledged for so long, or two command-timeouts: a lost connection. */
    LIMIT_UNACKNOWLEDGED_MS = 20000,
    LIMIT_FENCE_RETRY_MS = 10000, /* after a fence program that failed */
    LIMIT_BUSY_MS = 1000,         /* until a kept file that another daemon has is tried again */
    LIMIT_REST_MS = 1000,         /* before a request that failed is tried again (on-error) */
    LIMIT_PATIENCE_MS = 480000,   /* a command's deadline, doubled whenever it was of no use */
    LIMIT_PARDON_DEADLINES = 8,   /* between two times that it is given back for one good answer */
    LIMIT_SUSPEND_MS = 5000,      /* a stop waits so long for the server; the rest is kept */

    /* -- log ---------------------------------------------------------------------------------- */
    LIMIT_LOG_LINES = 5,         /* of one kind, for one disk ... */
    LIMIT_LOG_WINDOW_MS = 10000, /* ... in this time; then one line that counts the rest */
    LIMIT_FENCE_LINES = 50,      /* of all hooks' output, in that time */
};

#endif
