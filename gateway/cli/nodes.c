#include "gateway/cli/nodes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenstore.h>

#include "proto/limits.h"

struct nodes {
    struct xs_handle *handle;
    xs_transaction_t transaction;
};

int nodes_connect(struct nodes **ret_nodes)
{
    struct nodes *nodes = calloc(1, sizeof *nodes);

    if (!nodes)
        return -ENOMEM;
    nodes->transaction = XBT_NULL;
    nodes->handle = xs_open(0);
    if (!nodes->handle) {
        free(nodes);
        return errno ? -errno : -ENODEV;
    }
    *ret_nodes = nodes;
    return 0;
}

void nodes_disconnect(struct nodes *nodes)
{
    if (!nodes)
        return;
    xs_close(nodes->handle);
    free(nodes);
}

#define PATH_FROM(path, format)                                    \
    char path[LIMIT_XENSTORE_PATH_BYTES];                          \
    {                                                              \
        va_list list;                                              \
        int path_length;                                           \
        va_start(list, format);                                    \
        path_length = vsnprintf(path, sizeof path, format, list);  \
        va_end(list);                                              \
        if (path_length < 0 || (size_t)path_length >= sizeof path) \
            return -ENAMETOOLONG;                                  \
    }

int nodes_get(struct nodes *nodes, char ret_value[static NODES_VALUE_BYTES], const char *format,
              ...)
{
    unsigned length = 0;
    char *value;

    PATH_FROM(path, format)
    value = xs_read(nodes->handle, nodes->transaction, path, &length);
    if (!value)
        return -errno;
    if (length >= NODES_VALUE_BYTES)
        length = NODES_VALUE_BYTES - 1;
    for (unsigned i = 0; i < length; i++)
        ret_value[i] = (char)(value[i] >= ' ' && value[i] <= '~' ? value[i] : '?');
    ret_value[length] = '\0';
    free(value);
    return 0;
}

int nodes_put(struct nodes *nodes, const char *value, const char *format, ...)
{
    PATH_FROM(path, format)
    return xs_write(nodes->handle, nodes->transaction, path, value, (unsigned)strlen(value))
               ? 0
               : -errno;
}

int nodes_delete(struct nodes *nodes, const char *format, ...)
{
    PATH_FROM(path, format)
    return xs_rm(nodes->handle, nodes->transaction, path) ? 0 : -errno;
}

int nodes_make_directory(struct nodes *nodes, uint32_t owner, uint32_t reader, const char *format,
                         ...)
{
    struct xs_permissions permissions[2] = {{owner, XS_PERM_NONE}, {reader, XS_PERM_READ}};

    PATH_FROM(path, format)
    if (!xs_mkdir(nodes->handle, nodes->transaction, path) ||
        !xs_set_permissions(nodes->handle, nodes->transaction, path, permissions, 2))
        return -errno;
    return 0;
}

int nodes_owner(struct nodes *nodes, const char *path, uint32_t *ret_domid)
{
    unsigned count = 0;
    struct xs_permissions *permissions =
        xs_get_permissions(nodes->handle, nodes->transaction, path, &count);

    if (!permissions)
        return -errno;
    if (count > 0)
        *ret_domid = permissions[0].id; /* the first one's is the owner */
    free(permissions);
    return count > 0 ? 0 : -ENOENT;
}

int nodes_each(struct nodes *nodes, const char *path, void (*each)(void *arg, const char *name),
               void *arg)
{
    unsigned count = 0;
    char **names = xs_directory(nodes->handle, nodes->transaction, path, &count);

    if (!names)
        return -errno;
    for (unsigned i = 0; i < count; i++)
        each(arg, names[i]);
    free(names);
    return 0;
}

int nodes_transaction(struct nodes *nodes, int (*run)(struct nodes *nodes, void *arg), void *arg)
{
    int err = -EAGAIN;

    for (int i = 0; i < LIMIT_XENSTORE_TRIES && err == -EAGAIN; i++) {
        nodes->transaction = xs_transaction_start(nodes->handle);
        if (nodes->transaction == XBT_NULL)
            return -errno;
        err = run(nodes, arg);
        if (!xs_transaction_end(nodes->handle, nodes->transaction, err < 0) && err == 0)
            err = -errno;
        nodes->transaction = XBT_NULL;
    }
    return err;
}
