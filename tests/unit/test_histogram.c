/* The latencies that benchmarks report: a percentile is within a class's width of the truth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../benchmark/histogram.h"

static struct histogram histogram;

static void near(double part, double true_us)
{
    double us = histogram_us(&histogram, part);

    if (us < true_us * 0.984 || us > true_us * 1.016)
        fail_msg("%g of all: %g us, not %g", part, us, true_us);
}

static void percentiles_of_many(void **state)
{
    (void)state;
    histogram_clear(&histogram);
    for (uint64_t us = 1; us <= 100000; us++)
        histogram_add(&histogram, us * 1000, 1);
    assert_int_equal(histogram.count, 100000);
    assert_int_equal(histogram.max_ns, 100000000);
    near(0.5, 50000);
    near(0.99, 99000);
    near(0.999, 99900);
    near(1, 100000);
}

static void a_latency_may_count_many_times(void **state)
{
    (void)state;
    histogram_clear(&histogram);
    histogram_add(&histogram, 70000, 999);
    histogram_add(&histogram, 9000000, 1);
    near(0.5, 70);
    near(0.999, 70);
    near(0.9995, 9000);
}

static void every_number_has_a_class(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        histogram_clear(&histogram);
        histogram_add(&histogram, UINT64_C(1) << bit, 1);
        near(0.5, (double)(UINT64_C(1) << bit) / 1000);
    }
    histogram_clear(&histogram);
    histogram_add(&histogram, UINT64_MAX, 1);
    near(0.5, (double)UINT64_MAX / 1000);
    histogram_clear(&histogram);
    assert_true(histogram_us(&histogram, 0.5) == 0);
    histogram_add(&histogram, 0, 1);
    assert_true(histogram_us(&histogram, 0.5) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_of_many),
        cmocka_unit_test(a_latency_may_count_many_times),
        cmocka_unit_test(every_number_has_a_class),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
