//! The catalogue: every metric with its name, unit, buckets and help text (which is its doc comment).

use ::metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

/// Label names with their values; the values are closed sets or names from the configuration.
pub(super) type Labels<'a> = [(&'static str, &'a str)];

pub(super) struct CounterDef(&'static str);
pub(super) struct GaugeDef(&'static str);
pub(super) struct HistogramDef(&'static str);

// Registering makes the series appear with 0.
impl CounterDef {
    pub(super) fn with(&self, labels: &Labels<'_>) -> Counter {
        counter!(self.0, &owned(labels))
    }
}
impl GaugeDef {
    pub(super) fn with(&self, labels: &Labels<'_>) -> Gauge {
        gauge!(self.0, &owned(labels))
    }
}
impl HistogramDef {
    pub(super) fn with(&self, labels: &Labels<'_>) -> Histogram {
        histogram!(self.0, &owned(labels))
    }
}

fn owned(labels: &Labels<'_>) -> Vec<(&'static str, String)> {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// 1 ms to 60 s: what a task or a batch meets.
const LATENCY: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// 1 ms to a day: a task may have waited behind a backlog.
const WAIT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
    86_400.0,
];
/// 100 us to 5 s: one command on a local network.
const COMMAND: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// 100 us to 60 s: from a cached paragraph to the time limit of a text.
const ANALYSIS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0];
/// 10 ms to an hour: one run of a scheduled job.
const JOB: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];
const TASKS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0];
/// 1 KiB to 16 MiB (the largest statement MongoDB takes).
const BYTES: &[f64] = &[
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
    8_388_608.0,
    16_777_216.0,
];

macro_rules! catalogue {
    (
        counters { $( $(#[doc = $chelp:literal])+ $c:ident = $cname:literal; )+ }
        gauges { $( $(#[doc = $ghelp:literal])+ $g:ident = $gname:literal, $gunit:ident; )+ }
        histograms { $( $(#[doc = $hhelp:literal])+ $h:ident = $hname:literal, $hunit:ident, $buckets:ident; )+ }
    ) => {
        $( $(#[doc = $chelp])+ pub(super) const $c: CounterDef = CounterDef(concat!("contextd_", $cname)); )+
        $( $(#[doc = $ghelp])+ pub(super) const $g: GaugeDef = GaugeDef(concat!("contextd_", $gname)); )+
        $( $(#[doc = $hhelp])+ pub(super) const $h: HistogramDef = HistogramDef(concat!("contextd_", $hname)); )+

        /// Gives the installed recorder the help texts and units.
        pub(super) fn describe() {
            $( ::metrics::describe_counter!($c.0, Unit::Count, concat!($($chelp),+).trim()); )+
            $( ::metrics::describe_gauge!($g.0, Unit::$gunit, concat!($($ghelp),+).trim()); )+
            $( ::metrics::describe_histogram!($h.0, Unit::$hunit, concat!($($hhelp),+).trim()); )+
        }

        /// The bucket bounds of every histogram.
        pub(super) const HISTOGRAMS: &[(&str, &[f64])] = &[ $( ($h.0, $buckets) ),+ ];

        /// Every metric's full name.
        #[cfg(test)]
        pub(super) const NAMES: &[&str] = &[ $($c.0,)+ $($g.0,)+ $($h.0),+ ];
    };
}

catalogue! {
    counters {
        /// Tasks taken from Redis; a task that is taken again counts again.
        TASKS_RECEIVED = "tasks_received_total";
        /// Tasks that came to an end, by outcome.
        TASKS_FINISHED = "tasks_finished_total";
        /// Tasks that went back to wait: for a retry, or released unprocessed.
        TASKS_RETURNED = "tasks_returned_total";
        /// Tasks that became dead letters, by reason.
        TASKS_DEAD = "tasks_dead_total";
        /// Failures met while processing tasks, by class of error.
        TASK_FAILURES = "task_failures_total";
        /// Tasks put back for another attempt, by class of the error that made it necessary.
        TASK_RETRIES = "task_retries_total";
        /// Tasks taken over from a worker that no longer held its lease, or found again after an error.
        TASK_RECLAIMS = "task_reclaims_total";
        /// Batches closed, by what closed them.
        BATCH_FLUSHES = "batch_flushes_total";
        /// Failed writes to MongoDB, by class of error.
        MONGODB_WRITE_ERRORS = "mongodb_write_errors_total";
        /// Cache lookups, by cache, tier and result.
        CACHE_LOOKUPS = "cache_lookups_total";
        /// Cached records that were left out or could not be used, by reason.
        CACHE_EVENTS = "cache_events_total";
        /// Records a scheduled job looked at, changed, or left alone because they are held.
        JOB_ITEMS = "job_items_total";
        /// Slots of a scheduled job that passed without a run.
        JOB_MISSED_SLOTS = "job_missed_slots_total";
        /// Slots of a scheduled job skipped because the job was still running.
        JOB_OVERLAP_SKIPS = "job_overlap_skips_total";
    }
    gauges {
        /// Tasks that wait to be taken.
        QUEUE_DEPTH = "queue_depth", Count;
        /// When the oldest waiting task was made (Unix time); 0 when none waits or its time is not known.
        QUEUE_OLDEST = "queue_oldest_task_timestamp_seconds", Seconds;
        /// Tasks that wait for their time: a retry or a notbefore.
        QUEUE_DELAYED = "queue_delayed", Count;
        /// Tasks this process holds and has not finished.
        TASKS_IN_FLIGHT = "tasks_in_flight", Count;
        /// Entries of a stream queue that were delivered to some worker and are not acknowledged.
        STREAM_PENDING = "stream_pending_entries", Count;
        /// Received less finished, returned and in flight. Anything but 0 is a defect: a task was lost or counted twice.
        LEDGER_GAP = "ledger_gap", Count;
        /// Dead letters in MongoDB.
        DEAD_LETTERS = "dead_letters", Count;
        /// Cached records that are noted as not in step with MongoDB, in the whole fleet.
        KVSHADOW_ENTRIES = "kvshadow_entries", Count;
        /// How long the first of them has been waiting.
        KVSHADOW_OLDEST_AGE = "kvshadow_oldest_age_seconds", Seconds;
        /// When the queue's loop last made progress (Unix time); an idle loop that looks for work makes progress too.
        LAST_PROGRESS = "last_progress_timestamp_seconds", Seconds;
        /// When the job last ended well, in any process (Unix time).
        JOB_LAST_SUCCESS = "job_last_success_timestamp_seconds", Seconds;
        /// When the job last ended, well or not, in any process (Unix time).
        JOB_LAST_COMPLETION = "job_last_completion_timestamp_seconds", Seconds;
        /// Scheduled runs whose lease this process holds now.
        SCHEDULER_LEADER = "scheduler_leader", Count;
        /// Always 1; the labels say which build runs.
        BUILD_INFO = "build_info", Count;
    }
    histograms {
        /// From a task's time (set by its producer) to its taking.
        TASK_QUEUE_WAIT = "task_queue_wait_seconds", Seconds, WAIT;
        /// From a task's time (set by its producer) to its end.
        TASK_END_TO_END = "task_end_to_end_seconds", Seconds, WAIT;
        /// Tasks in a batch.
        BATCH_SIZE_TASKS = "batch_size_tasks", Count, TASKS;
        /// Bytes of task bodies in a batch.
        BATCH_SIZE_BYTES = "batch_size_bytes", Bytes, BYTES;
        /// One write to MongoDB, majority-acknowledged.
        MONGODB_WRITE_DURATION = "mongodb_write_duration_seconds", Seconds, LATENCY;
        /// One command or script sent to Redis, to its answer.
        REDIS_COMMAND_DURATION = "redis_command_duration_seconds", Seconds, COMMAND;
        /// From MongoDB's acknowledgement of a record to the cache being in step with it.
        CACHE_STALENESS = "cache_staleness_seconds", Seconds, WAIT;
        /// One analyzer on one text.
        ANALYSIS_DURATION = "analysis_duration_seconds", Seconds, ANALYSIS;
        /// One run of a scheduled job.
        JOB_DURATION = "job_duration_seconds", Seconds, JOB;
    }
}
