/*
 * config_private: what the files of config share, and nobody else. config.c takes the file apart
 * and checks it, config_value.c knows what the text of one value means, config_tree.c makes the
 * immutable tree and prints it.
 */
#ifndef BLKGATE_GATEWAY_CONFIG_PRIVATE_H
#define BLKGATE_GATEWAY_CONFIG_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>

#include "gateway/config.h"
#include "proto/limits.h"

enum key_kind {
    KEY_BOOL,
    KEY_NUMBER,
    KEY_TIME, /* in ms */
    KEY_SIZE, /* in bytes */
    KEY_HOLD, /* in ms; 0: for ever */
    KEY_WORD, /* the place of one of `words` */
    KEY_NAME, /* these and below are texts */
    KEY_PATH,
    KEY_URI,
    KEY_COMMAND,
};

struct key {
    const char *name;
    enum key_kind kind;
    long long min; /* of a number, time or size */
    long long max;
    const char *const *words; /* ends with NULL */
};

enum gateway_key {
    GATEWAY_WORKERS,
    GATEWAY_ALLOW_URI,
    GATEWAY_LOCK,
    GATEWAY_KEEP,
    GATEWAY_MEMORY,
    GATEWAY_DOMID,
    GATEWAY_CONNECT_TIMEOUT,
    GATEWAY_QUEUES,
    GATEWAY_RING_ORDER,
    GATEWAY_INDIRECT,
    GATEWAY_LOG_LEVEL,
    GATEWAY_KEYS,
};

enum disk_key {
    DISK_EXPORT,
    DISK_PATHS,
    DISK_COHERENT,
    DISK_CONNECTIONS,
    DISK_ON_LOSS,
    DISK_ON_ERROR,
    DISK_COMMAND_TIMEOUT,
    DISK_DRAINS,
    DISK_FENCE_TIME,
    DISK_FENCE,
    DISK_READ_ONLY,
    DISK_ACCEPT_VOLATILE,
    DISK_SHARED,
    DISK_WORKER,
    DISK_TLS_CERTIFICATES,
    DISK_TLS_PSK_FILE,
    DISK_TLS_USERNAME,
    DISK_KEYS,
};

extern const struct key config_gateway_keys[GATEWAY_KEYS];
extern const struct key config_disk_keys[DISK_KEYS];

struct value {
    unsigned line;    /* 0: not given */
    long long number; /* of a kind that is no text; else 0 */
    char *text;       /* of a text; NULL also if it was wrong */
};

/* A section has room for either kind of keys. */
enum { SECTION_KEYS = (int)GATEWAY_KEYS > (int)DISK_KEYS ? (int)GATEWAY_KEYS : (int)DISK_KEYS };

struct section {
    unsigned line;
    char *name; /* of a disk */
    struct value value[SECTION_KEYS];
    struct value exports[LIMIT_PATHS]; /* the one key that may be given again; not in `value` */
    unsigned export_count;
};

/* 0 and the number (0 of a text), or -EINVAL and what to write instead. */
int config_value_read(const struct key *key, const char *text, long long *ret_number,
                      char *ret_reason, size_t reason_bytes);
bool config_value_is_text(const struct key *key);

/* Nothing but letters, digits and `signs`. */
bool config_is_name(const char *text, const char *signs);

/* KEY = VALUE, as config_value_read takes it. */
void config_value_print(const struct key *key, long long number, FILE *out);

/* How many workers there will be; 0: the file gave a wrong number. */
unsigned config_tree_workers(const struct section *gateway);

/* Takes texts out of the disks' sections. */
int config_tree_make(const struct section *gateway, struct section *disks, size_t disk_count,
                     struct config **ret_config);

#endif
