use std::pin::Pin;
use std::sync::Mutex;

use super::*;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The control side of a test: its own runtime, with time that jumps.
#[derive(Debug)]
struct Control(tokio::sync::watch::Sender<bool>);

impl Background for Control {
    fn spawn(&self, task: Task) {
        tokio::spawn(task);
    }

    fn stopping(&self) -> Task {
        let mut stop = self.0.subscribe();
        Box::pin(async move { drop(stop.wait_for(|stop| *stop).await) })
    }
}

/// Batches that arrived, and how many attempts fail first.
#[derive(Debug, Clone, Default)]
struct Receiver {
    batches: Arc<Mutex<Vec<Vec<String>>>>,
    failures: Arc<Mutex<Vec<usize>>>,
    hangs: bool,
}

impl Target for Receiver {
    async fn deliver(&mut self, entries: &[Vec<u8>]) -> Result<(), Failed> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let failure = self.failures.lock().unwrap().pop();
        let count = failure.unwrap_or(entries.len());
        let text = entries.iter().take(count).map(|it| String::from_utf8_lossy(it).into_owned());
        let batch: Vec<_> = text.collect();
        if !batch.is_empty() {
            self.batches.lock().unwrap().push(batch);
        }
        match failure {
            Some(delivered) => Err(Failed { error: "refused".into(), delivered }),
            None => Ok(()),
        }
    }
}

impl Receiver {
    fn seen(&self) -> Vec<Vec<String>> {
        self.batches.lock().unwrap().clone()
    }

    async fn wait_for(&self, batches: usize) -> Vec<Vec<String>> {
        for _ in 0..10_000 {
            if self.seen().len() >= batches {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.seen()
    }
}

fn conf(size: usize, retries: u32) -> BatchConf {
    BatchConf {
        name: "test".into(),
        max_retry_count: retries,
        retry_delay: 0,
        buffer_duration: 60,
        inactive_timeout: 1,
        batch_max_size: size,
    }
}

const WIDE: Bounds = Bounds { entries: 100, bytes: 1 << 20 };

fn counts() -> &'static Counts {
    Box::leak(Box::new(Counts::new()))
}

struct Rig {
    batches: Batches,
    counts: &'static Counts,
    control: Arc<dyn Background>,
    stop: tokio::sync::watch::Sender<bool>,
}

fn rig(conf: BatchConf, bounds: Bounds, receiver: &Receiver) -> Rig {
    let stop = tokio::sync::watch::Sender::new(false);
    let (counts, control) = (counts(), Arc::new(Control(stop.clone())) as Arc<dyn Background>);
    let batches = Batches::start(conf, bounds, counts, receiver.clone(), &control);
    Rig { batches, counts, control, stop }
}

#[tokio::test]
async fn one_at_a_time_is_delivered_at_once() {
    let receiver = Receiver::default();
    let rig = rig(conf(1, 0), WIDE, &receiver);
    rig.batches.push(b"a".to_vec());
    rig.batches.push(b"b".to_vec());
    assert_eq!(receiver.wait_for(2).await, [["a"], ["b"]]);
    drop(rig.control);
}

#[tokio::test]
async fn others_wait_for_the_batch_or_the_pause() {
    let receiver = Receiver::default();
    let rig = rig(conf(2, 0), WIDE, &receiver);
    ["a", "b", "c"].into_iter().for_each(|entry| rig.batches.push(entry.into()));
    assert_eq!(receiver.wait_for(2).await, [vec!["a", "b"], vec!["c"]]);
    assert_eq!(rig.counts.delivered.get(), 3);
}

#[tokio::test]
async fn the_last_user_gone_the_rest_is_delivered() {
    let receiver = Receiver::default();
    let rig = rig(conf(1000, 0), WIDE, &receiver);
    rig.batches.push(b"a".to_vec());
    drop(rig.batches);
    assert_eq!(receiver.wait_for(1).await, [["a"]]);
}

#[tokio::test]
async fn the_end_of_the_process_flushes() {
    let receiver = Receiver::default();
    let rig = rig(conf(1000, 0), WIDE, &receiver);
    rig.batches.push(b"a".to_vec());
    rig.stop.send_replace(true);
    assert_eq!(receiver.wait_for(1).await, [["a"]]);
    rig.batches.push(b"late".to_vec());
    assert_eq!(rig.counts.overflowed.get(), 1);
}

#[tokio::test]
async fn failures_are_tried_again_without_what_got_through() {
    let receiver = Receiver::default();
    *receiver.failures.lock().unwrap() = vec![1, 0];
    let rig = rig(conf(3, 2), WIDE, &receiver);
    ["a", "b", "c"].into_iter().for_each(|entry| rig.batches.push(entry.into()));
    assert_eq!(receiver.wait_for(2).await, [vec!["a"], vec!["b", "c"]]);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((rig.counts.delivered.get(), rig.counts.failed.get()), (3, 0));
}

#[tokio::test]
async fn after_the_last_attempt_entries_are_dropped_and_counted() {
    let receiver = Receiver::default();
    *receiver.failures.lock().unwrap() = vec![0, 0];
    let rig = rig(conf(1, 1), WIDE, &receiver);
    ["lost", "kept"].into_iter().for_each(|entry| rig.batches.push(entry.into()));
    assert_eq!(receiver.wait_for(1).await, [["kept"]]);
    assert_eq!(rig.counts.failed.get(), 1);
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_entries_and_no_time() {
    let receiver = Receiver { hangs: true, ..Receiver::default() };
    let bounds = Bounds { entries: 3, bytes: 10 };
    let rig = rig(conf(1, 0), bounds, &receiver);
    for _ in 0..3 {
        rig.batches.push(b"abc".to_vec());
        rig.batches.push(b"too long an entry".to_vec());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.batches.push(b"d".to_vec());
    assert_eq!(rig.counts.overflowed.get(), 4);
}
