/* vbd_nodes: see vbd_nodes.h. */
#include "gateway/vbd_nodes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/config.h"
#include "gateway/vbd_ring.h"
#include "gateway/xs.h"

enum { SMALL_BYTES = 64 };

static const char script_name[] = "block-blkgate";

const char *vbd_kind_name(enum vbd_kind kind)
{
    static const char *const names[] = {
        [VBD_KIND_VBD] = "vbd", [VBD_KIND_QDISK] = "qdisk", [VBD_KIND_VBD3] = "vbd3"};

    return names[kind];
}

/* -- reading ------------------------------------------------------------------------------- */

static int read_below(struct store *store, store_tx tx, const char *directory, const char *key,
                      char *ret_value, size_t bytes)
{
    char path[LIMIT_XENSTORE_PATH_BYTES];
    int length = snprintf(path, sizeof(path), "%s/%s", directory, key);

    if (length < 0 || (size_t)length >= sizeof(path))
        return -ENAMETOOLONG;
    return store_read(store, tx, path, ret_value, bytes);
}

/* As read_below, for a node of a few letters: anything else in it reads as absent. */
static int read_word(struct store *store, store_tx tx, const char *directory, const char *key,
                     char ret_word[static SMALL_BYTES])
{
    int ret = read_below(store, tx, directory, key, ret_word, SMALL_BYTES);

    return ret == -EMSGSIZE || ret == -EILSEQ ? -ENOENT : ret;
}

static int read_state(struct store *store, store_tx tx, const char *directory,
                      enum xenbus_state *ret_state)
{
    char word[SMALL_BYTES];
    int ret = read_word(store, tx, directory, KEY_STATE, word);

    if (ret < 0 && ret != -ENOENT)
        return ret;
    *ret_state = ret < 0 ? XENBUS_ABSENT : xenbus_state_parse(word);
    return 0;
}

/* Does the node say `word`? An absent one says nothing. */
static int read_is(struct store *store, const char *directory, const char *key, const char *word,
                   bool *ret_is)
{
    char value[SMALL_BYTES];
    int ret = read_word(store, STORE_ALONE, directory, key, value);

    if (ret < 0 && ret != -ENOENT)
        return ret;
    *ret_is = ret == 0 && strcmp(value, word) == 0;
    return 0;
}

static bool is_uri(const char *params)
{
    return strstr(params, "://") != NULL;
}

static bool names_disk(const struct config *config, const char *params)
{
    char unused[LIMIT_REASON_BYTES];

    if (config_disk_find(config, params))
        return true;
    return config->allow_uri && is_uri(params) &&
           config_uri_check(params, unused, sizeof(unused)) == 0;
}

/* Named in no configuration: ours still if an earlier blkgated served it, so that a disk that went
 * missing from the configuration is spoken of. */
static int find_trace(struct store *store, const char *back)
{
    char status[LIMIT_XENSTORE_BYTES];

    return read_below(store, STORE_ALONE, back, KEY_BLKGATE_STATUS, status, sizeof(status));
}

static bool is_our_script(const char *script)
{
    const char *slash = strrchr(script, '/');

    return strcmp(slash ? slash + 1 : script, script_name) == 0;
}

/* Reads script and params, and decides whether the node is ours. */
static int find_owner(struct store *store, const struct config *config, enum vbd_kind kind,
                      const char *back, struct vbd_node *node)
{
    static const char aio[] = "aio:"; /* libxl's word for raw */
    char script[LIMIT_XENSTORE_PATH_BYTES], text[LIMIT_XENSTORE_BYTES];
    const char *params = text;
    int ret = read_below(store, STORE_ALONE, back, KEY_SCRIPT, script, sizeof(script));

    if (ret < 0 && ret != -ENOENT)
        return ret;
    node->script = ret == 0;
    ret = read_below(store, STORE_ALONE, back, KEY_PARAMS, text, sizeof(text));
    if (ret < 0)
        return ret;

    if (kind != VBD_KIND_VBD && strncmp(text, aio, sizeof(aio) - 1) == 0)
        params += sizeof(aio) - 1;
    node->params = strdup(params);
    if (!node->params)
        return -ENOMEM;
    if (node->script && is_our_script(script))
        return 0; /* whatever it names: the script waits to hear of it */
    if (kind == VBD_KIND_VBD && node->script)
        return -ENOENT;
    if (names_disk(config, params)) /* a URI of kind vbd is of blkgate attach */
        return 0;
    return find_trace(store, back);
}

int vbd_nodes_find(struct store *store, const struct config *config, enum vbd_kind kind,
                   const char *back, uint16_t domid, struct vbd_node *ret_node)
{
    struct vbd_node node = {0};
    char word[SMALL_BYTES];
    uint32_t frontend_id = 0;
    int ret = find_owner(store, config, kind, back, &node);

    if (ret < 0)
        goto out;
    ret = read_below(store, STORE_ALONE, back, KEY_FRONTEND, node.frontend, sizeof(node.frontend));
    if (ret < 0)
        goto out;
    ret = read_word(store, STORE_ALONE, back, KEY_FRONTEND_ID, word);
    if (ret < 0)
        goto out;
    if (node.frontend[0] != '/' || xenbus_parse_u32(word, UINT16_MAX, &frontend_id) < 0 ||
        frontend_id != domid) {
        ret = -ENOENT;
        goto out;
    }
    ret = read_word(store, STORE_ALONE, back, KEY_MODE, word);
    if (ret < 0 && ret != -ENOENT)
        goto out;
    node.readonly = ret < 0 || !strchr(word, 'w'); /* as Linux reads it */
    ret = read_is(store, back, KEY_DEVICE_TYPE, "cdrom", &node.cdrom);
    if (ret < 0)
        goto out;
    ret = read_is(store, back, KEY_REMOVABLE, "1", &node.removable);
    if (ret < 0)
        goto out;
    ret = read_is(store, back, KEY_DISCARD_ENABLE, "0", &node.discard);
    if (ret < 0)
        goto out;
    node.discard = !node.discard; /* absent means yes */
    *ret_node = node;
    return 0;
out:
    free(node.params);
    /* What does not fit or is no text is none of ours either. */
    return ret == -EMSGSIZE || ret == -EILSEQ ? -ENOENT : ret;
}

int vbd_nodes_exist(struct store *store, const char *back, bool *ret_exist)
{
    enum xenbus_state state = XENBUS_ABSENT;
    int ret = read_state(store, STORE_ALONE, back, &state);

    if (ret == 0)
        *ret_exist = state != XENBUS_ABSENT;
    return ret;
}

int vbd_nodes_disk(const struct vbd_node *node, const struct config *config,
                   const struct config_disk **ret_disk, struct config_disk **ret_own,
                   char ret_reason[static LIMIT_REASON_BYTES])
{
    const struct config_disk *disk = config_disk_find(config, node->params);
    struct config_disk *own = NULL;
    int ret;

    if (!disk && !is_uri(node->params)) {
        snprintf(ret_reason, LIMIT_REASON_BYTES,
                 "no disk \"%.60s\" in the configuration (add a section [disk %.60s])",
                 node->params, node->params);
        return -EINVAL;
    }
    if (!disk && !config->allow_uri) {
        snprintf(ret_reason, LIMIT_REASON_BYTES,
                 "\"%.100s\" is a URI, and the configuration has allow-uri = no", node->params);
        return -EINVAL;
    }
    if (!disk) {
        if (config_uri_check(node->params, ret_reason, LIMIT_REASON_BYTES) < 0)
            return -EINVAL;
        ret = config_disk_from_uri(node->params, &own);
        if (ret < 0) {
            snprintf(ret_reason, LIMIT_REASON_BYTES, "\"%.100s\": %s", node->params,
                     strerror(-ret));
            return -EINVAL;
        }
        disk = own;
    }
    *ret_disk = disk;
    *ret_own = own;
    return 0;
}

static int read_hex(struct store *store, const char *back, const char *key, uint64_t *ret_value)
{
    char word[SMALL_BYTES];
    int ret = read_word(store, STORE_ALONE, back, key, word);

    if (ret == 0)
        *ret_value = strtoull(word, NULL, 16);
    return ret == -ENOENT ? 0 : ret;
}

/* What an earlier daemon left to us. */
static int read_past(struct store *store, const char *back, struct vbd_seen *seen)
{
    char word[SMALL_BYTES];
    int ret = read_hex(store, back, KEY_BLKGATE_DEVICE, &seen->device_nonce);

    if (ret == 0)
        ret = read_hex(store, back, KEY_BLKGATE_EXPORT, &seen->export_id);
    if (ret == 0)
        ret = read_word(store, STORE_ALONE, back, KEY_BLKGATE_RINGS, word);
    if (ret == 0) {
        seen->past_shape.one_queue = strstr(word, BLKGATE_ONE_QUEUE) != NULL;
        seen->past_shape.one_page = strstr(word, BLKGATE_ONE_PAGE) != NULL;
    }
    return ret == -ENOENT ? 0 : ret;
}

/* What toolstacks and their scripts leave beside state and online. */
static int read_hotplug(struct store *store, const char *back, struct vbd_seen *seen)
{
    char word[SMALL_BYTES];
    int ret = read_word(store, STORE_ALONE, back, KEY_HOTPLUG_STATUS, word);

    if (ret < 0 && ret != -ENOENT)
        return ret;
    seen->hotplug = ret < 0                          ? VBD_HOTPLUG_ABSENT
                    : strcmp(word, "connected") == 0 ? VBD_HOTPLUG_CONNECTED
                                                     : VBD_HOTPLUG_ERROR;
    ret = read_word(store, STORE_ALONE, back, KEY_SHUTDOWN_REQUEST, word);
    if (ret < 0)
        return ret == -ENOENT ? 0 : ret;
    seen->shutdown = strcmp(word, "force") == 0 ? VBD_SHUTDOWN_FORCE : VBD_SHUTDOWN_NORMAL;
    ret = read_word(store, STORE_ALONE, back, KEY_SHUTDOWN_DONE, word);
    seen->shutdown_done = ret == 0;
    return ret == -ENOENT ? 0 : ret;
}

int vbd_nodes_see(struct store *store, const char *back, const struct vbd_node *node,
                  bool look_for_past, struct vbd_seen *ret_seen)
{
    struct vbd_seen seen = {0};
    char status[LIMIT_XENSTORE_BYTES], word[SMALL_BYTES];
    int ret = read_state(store, STORE_ALONE, back, &seen.own);

    if (ret < 0)
        return ret;
    ret = read_state(store, STORE_ALONE, node->frontend, &seen.frontend);
    if (ret < 0)
        return ret;
    ret = read_word(store, STORE_ALONE, back, KEY_ONLINE, word);
    if (ret < 0 && ret != -ENOENT)
        return ret;
    seen.online = ret < 0 || strcmp(word, "0") != 0; /* only an explicit 0 is a no */
    ret = read_hotplug(store, back, &seen);
    if (ret < 0)
        return ret;
    if (seen.own == XENBUS_INITIALISING || seen.own == XENBUS_INIT_WAIT) {
        ret = read_below(store, STORE_ALONE, back, KEY_BLKGATE_STATUS, status, sizeof(status));
        if (ret < 0 && ret != -ENOENT && ret != -EMSGSIZE && ret != -EILSEQ)
            return ret;
        seen.status = ret != -ENOENT;
    }
    if (look_for_past) {
        ret = read_past(store, back, &seen);
        if (ret < 0)
            return ret;
    }
    *ret_seen = seen;
    return 0;
}

int vbd_nodes_told(struct store *store, const char *back, struct disk_properties *ret_told)
{
    char sectors[SMALL_BYTES], info[SMALL_BYTES];
    struct disk_properties told = {0};
    uint32_t bits = 0;
    int ret = read_word(store, STORE_ALONE, back, KEY_SECTORS, sectors);

    if (ret == 0)
        ret = read_word(store, STORE_ALONE, back, KEY_INFO, info);
    if (ret == 0)
        ret = read_is(store, back, KEY_FEATURE_FLUSH, "1", &told.flush);
    if (ret < 0)
        return ret;
    if (xenbus_parse_u64(sectors, UINT64_MAX, &told.capacity_sectors) < 0 ||
        xenbus_parse_u32(info, UINT32_MAX, &bits) < 0)
        return -ENOENT;
    told.readonly = bits & XENBUS_INFO_READONLY;
    *ret_told = told;
    return 0;
}

/* -- rings --------------------------------------------------------------------------------- */

struct ring_reader {
    struct store *store;
    const char *directory;
};

static int read_ring_key(void *arg, const char *key, char *ret_value, size_t bytes)
{
    struct ring_reader *reader = arg;

    return read_below(reader->store, STORE_ALONE, reader->directory, key, ret_value, bytes);
}

static int read_limit(struct store *store, const char *back, const char *key, uint32_t absent,
                      uint32_t max, uint32_t *ret_limit)
{
    char word[SMALL_BYTES];
    uint32_t limit = absent;
    int ret = read_word(store, STORE_ALONE, back, key, word);

    if (ret < 0 && ret != -ENOENT)
        return ret;
    if (ret == 0)
        (void)xenbus_parse_u32(word, UINT32_MAX, &limit);
    *ret_limit = limit < absent ? absent : limit > max ? max : limit;
    return 0;
}

int vbd_nodes_limits(struct store *store, const char *back, struct vbd_limits *ret_limits)
{
    struct vbd_limits limits;
    int ret = read_limit(store, back, KEY_MAX_QUEUES, 1, LIMIT_QUEUES, &limits.queues);

    if (ret == 0)
        ret = read_limit(store, back, KEY_MAX_RING_ORDER, 0, LIMIT_RING_ORDER, &limits.ring_order);
    if (ret == 0)
        ret =
            read_limit(store, back, KEY_MAX_INDIRECT, 0, LIMIT_SEGMENTS, &limits.indirect_segments);
    if (ret == 0)
        *ret_limits = limits;
    return ret;
}

/* F, and what of it B allows. */
static int ring_source(struct store *store, const char *back, struct ring_reader *reader,
                       struct vbd_ring_source *ret_source, struct vbd_limits *ret_limits)
{
    int ret = vbd_nodes_limits(store, back, ret_limits);

    if (ret == 0)
        *ret_source = (struct vbd_ring_source){
            .read = read_ring_key,
            .arg = reader,
            .queues_offered = ret_limits->queues,
            .order_offered = ret_limits->ring_order,
        };
    return ret;
}

int vbd_nodes_judge(struct store *store, const char *back, const struct vbd_node *node,
                    const struct vbd_ring_past *before, struct vbd_ring_past *ret_now)
{
    struct ring_reader reader = {.store = store, .directory = node->frontend};
    struct vbd_ring_source source;
    struct vbd_limits limits;
    int ret = ring_source(store, back, &reader, &source, &limits);

    return ret < 0 ? ret : vbd_ring_judge(&source, before, ret_now);
}

int vbd_nodes_rings(struct store *store, const char *back, const struct vbd_node *node,
                    const struct vbd_ring_shape *shape, struct disk_order *ret_order,
                    char ret_reason[static LIMIT_REASON_BYTES])
{
    struct ring_reader reader = {.store = store, .directory = node->frontend};
    struct vbd_ring_source source;
    struct vbd_limits limits;
    int ret = ring_source(store, back, &reader, &source, &limits);

    if (ret < 0)
        return ret;
    ret = vbd_ring_read(&source, shape, ret_order, ret_reason);
    if (ret == 0)
        ret_order->indirect_segments = (uint16_t)limits.indirect_segments;
    return ret;
}

/* -- writing ------------------------------------------------------------------------------- */

struct batch {
    struct store *store;
    const char *back;
    enum xenbus_state expect;
    enum xenbus_state to;
    const struct vbd_write *writes;
    unsigned count;
    const struct vbd_node *node; /* that B must still be; NULL: any */
};

static int write_below(const struct batch *batch, store_tx tx, const struct vbd_write *write)
{
    char path[LIMIT_XENSTORE_PATH_BYTES];

    snprintf(path, sizeof(path), "%s/%s", batch->back, write->key);
    if (!write->value)
        return store_remove(batch->store, tx, path);
    return write->is_private ? store_write_private(batch->store, tx, path, write->value)
                             : store_write(batch->store, tx, path, write->value);
}

static bool is_params(const char *text, const char *params)
{
    static const char aio[] = "aio:";

    if (strcmp(text, params) == 0)
        return true;
    return strncmp(text, aio, sizeof(aio) - 1) == 0 && strcmp(text + sizeof(aio) - 1, params) == 0;
}

/* -ESTALE: B is another device than it was when `node` was read. */
static int check_same(const struct batch *batch, store_tx tx)
{
    char text[LIMIT_XENSTORE_BYTES];
    int ret = read_below(batch->store, tx, batch->back, KEY_PARAMS, text, sizeof(text));

    if (ret == 0 && !is_params(text, batch->node->params))
        return -ESTALE;
    if (ret == 0)
        ret = read_below(batch->store, tx, batch->back, KEY_FRONTEND, text, sizeof(text));
    if (ret == 0 && strcmp(text, batch->node->frontend) != 0)
        return -ESTALE;
    return ret == -ENOENT || ret == -EMSGSIZE || ret == -EILSEQ ? -ESTALE : ret;
}

static int write_batch(void *arg, store_tx tx)
{
    const struct batch *batch = arg;
    enum xenbus_state state = XENBUS_ABSENT;
    char word[SMALL_BYTES];
    const struct vbd_write last = {KEY_STATE, word}; /* it is what is waited for */
    int ret = read_state(batch->store, tx, batch->back, &state);

    if (ret < 0)
        return ret;
    if (state == XENBUS_ABSENT)
        return -ENOENT;
    if (batch->expect != XENBUS_ABSENT && batch->expect != state)
        return -ESTALE;
    if (batch->node) {
        ret = check_same(batch, tx);
        if (ret < 0)
            return ret;
    }
    for (unsigned i = 0; i < batch->count; i++) {
        ret = write_below(batch, tx, &batch->writes[i]);
        if (ret < 0)
            return ret;
    }
    if (batch->to == XENBUS_ABSENT)
        return 0;
    snprintf(word, sizeof(word), "%d", (int)batch->to);
    return write_below(batch, tx, &last);
}

int vbd_nodes_write(struct store *store, const char *back, enum xenbus_state expect,
                    enum xenbus_state to, const struct vbd_write *writes, unsigned count)
{
    struct batch batch = {store, back, expect, to, writes, count, NULL};

    return store_transact(store, write_batch, &batch);
}

int vbd_nodes_claim(struct store *store, const char *back, const struct vbd_node *node,
                    const struct vbd_write *writes, unsigned count)
{
    struct batch batch = {store, back, XENBUS_ABSENT, XENBUS_ABSENT, writes, count, node};

    return store_transact(store, write_batch, &batch);
}

static int remove_whole(void *arg, store_tx tx)
{
    const struct batch *batch = arg;
    char online[SMALL_BYTES];
    enum xenbus_state state = XENBUS_ABSENT;
    int ret = read_state(batch->store, tx, batch->back, &state);

    if (ret < 0)
        return ret;
    ret = read_word(batch->store, tx, batch->back, KEY_ONLINE, online);
    if (ret < 0)
        return ret;
    if (state != XENBUS_CLOSED || strcmp(online, "0") != 0)
        return -ESTALE;
    return store_remove(batch->store, tx, batch->back);
}

int vbd_nodes_remove(struct store *store, const char *back)
{
    struct batch batch = {.store = store, .back = back};

    return store_transact(store, remove_whole, &batch);
}

void vbd_nodes_error(struct store *store, uint16_t our_domid, const char *back, const char *text)
{
    char path[LIMIT_XENSTORE_PATH_BYTES], own[SMALL_BYTES];
    char **others;
    unsigned count;
    int length = snprintf(own, sizeof(own), "/local/domain/%u/", our_domid);

    if (strncmp(back, own, (size_t)length) != 0)
        return;
    if (text) {
        snprintf(path, sizeof(path), "/local/domain/%u/error/%s/error", our_domid, back + length);
        (void)store_write(store, STORE_ALONE, path, text);
    } else {
        snprintf(path, sizeof(path), "/local/domain/%u/error/%s", our_domid, back + length);
        (void)store_remove(store, STORE_ALONE, path);
        /* The domain's last one: a node for every domain that ever failed would stay. */
        *strrchr(path, '/') = '\0';
        if (store_list(store, path, &others, &count) < 0)
            return;
        if (count == 0)
            (void)store_remove(store, STORE_ALONE, path);
        free(others);
    }
}
