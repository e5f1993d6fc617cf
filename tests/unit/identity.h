/* Two identities of a kept file are the same: by field, for what lies between fields is anything.
 */
#ifndef BLKGATE_TESTS_UNIT_IDENTITY_H
#define BLKGATE_TESTS_UNIT_IDENTITY_H

#include "proto/journal.h"

static inline void assert_identity_equal(const struct journal_identity *a,
                                         const struct journal_identity *b)
{
    assert_int_equal(a->device_nonce, b->device_nonce);
    assert_int_equal(a->export_id, b->export_id);
    assert_int_equal(a->export_bytes, b->export_bytes);
    assert_int_equal(a->domid, b->domid);
    assert_int_equal(a->handle, b->handle);
    assert_int_equal(a->flags, b->flags);
}

#endif
