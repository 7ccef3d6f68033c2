//! CPU time of the steps, by criterion: `cargo bench --bench time [-- STEP]`.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use micro::STEPS;
use rustix::time::{ClockId, clock_gettime};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500))
        .sample_size(30)
        .configure_from_args();
    let mut group = criterion.benchmark_group("micro");
    for step in STEPS {
        group.bench_function(BenchmarkId::from_parameter(step.id), |bencher| {
            let mut prepared = step.prepare();
            // Time of this thread and not of the day: what others do on the machine meanwhile does not count, but for caches.
            bencher.iter_custom(|runs| {
                let mut spent = Duration::ZERO;
                for _ in 0..runs {
                    prepared.refill();
                    let begin = cpu_time();
                    prepared.run();
                    spent += cpu_time().saturating_sub(begin);
                }
                spent
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
