/* lives: the words in which lives-rows.c writes what a toolstack, a domain and a frontend do to a
 * disk, one step a line, and the state that the backend must show after each.
 *
 * Between two steps the backend may show the state before, the one after, and `by` (where the
 * toolstack itself writes one on the way): any other makes the row fail, as does a state that does
 * not stay. In states 2 and 6, and when a row has ended, no grant of the domain is mapped and no
 * port of it bound; at its end xenstore has exactly the nodes that it had before.
 */
#ifndef LIVES_H
#define LIVES_H

enum { BE_GONE = -1, BE_ANY = 0 }; /* beside the states: no such node; not looked at */

/* How the toolstack hands the disk over: each bit of a row's `kinds` is a play of it. */
enum kind {
    VBD = 1,          /* dom0, by name */
    VBD_SCRIPT = 2,   /* dom0 with xen-blkback beside it, and etc/block-blkgate */
    VBD3 = 4,         /* libxl's backendtype=tap */
    VBD3_SCRIPT = 8,  /* with the script */
    QDISK = 16,       /* dom0 */
    QDISK_DRIVER = 32 /* in a driver domain: an unprivileged daemon that removes B itself */
};
enum { DOM0 = VBD | VBD_SCRIPT | VBD3 | VBD3_SCRIPT | QDISK, ALL = DOM0 | QDISK_DRIVER };

enum deed {
    /* the toolstack */
    ATTACH = 1,  /* B and F in one transaction; with a script, all that the script does too */
    ATTACH_ONLY, /* without the script's doings */
    ATTACH_READONLY,
    BLKBACK,    /* xen-blkback takes the device up first: its limits, state 2 */
    HOTPLUG,    /* the script is done: hotplug-status = connected */
    SOFT_RESET, /* B and F are deleted and made again in one transaction, same domid */
    UNPLUG,     /* asks: online 0, state 5 */
    DESTROY,    /* forces: F goes in the same transaction */
    REMOVE,     /* after state 6: the nodes; in a driver domain it waits for B to go */
    RESIZE,     /* the export grows by `value` MiB, and the daemon is told */
    RESTART,    /* the daemon is stopped and started */
    WAIT,       /* nothing, until the backend moves or for long enough to see that it does not */
    /* the domain */
    DIE,         /* without a word: F goes by xenstored's hand, @releaseDomain fires */
    NEW_DOMAIN,  /* another one for the same disk: migrated in, or a guest's reboot */
    SAME_DOMAIN, /* another one with the same domid */
    /* the frontend */
    FE,         /* writes its state */
    FE_NODE,    /* writes the node `text`, "key=value" */
    FE_RM,      /* removes it */
    ABI,        /* from here on it speaks `text`: x86_64, x86_32, arm, none */
    QUEUES,     /* from here on it makes so many rings */
    ORDER,      /* ... of 2^value pages */
    RING,       /* makes rings and publishes them; one that it had stays as it is until then */
    RING_SAME,  /* makes the ring it has anew: same pages, references and port */
    RING_AND_4, /* as RING, with state 4 in the same transaction: OVMF, Mini-OS */
    /* its requests */
    IO,    /* writes and reads back, through every ring, in its first and its last sectors */
    READ,  /* what the last IO wrote is there */
    PUSH,  /* `value` reads, whose answers nobody takes */
    ANSWER /* takes them all: every one OKAY */
};

struct step {
    enum deed deed; /* 0: the row is over */
    long value;
    int be; /* B/state after it */
    const char *text;
    int by;
};

enum { STEPS_MAX = 48 };

struct row {
    const char *name;
    unsigned kinds;
    struct step steps[STEPS_MAX];
};

extern const struct row rows[];
extern const unsigned rows_count;

#endif
