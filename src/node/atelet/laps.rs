//! The steps of an order and how long each took.

use crate::proto::atenode::StepTiming;
use std::time::{Duration, Instant};

/// Measures from one step's end to the next one's, so that the steps sum to the whole.
#[derive(Debug)]
pub(super) struct Laps {
    last: Instant,
    steps: Vec<StepTiming>,
}

impl Laps {
    /// Begins to measure.
    pub fn begin() -> Laps {
        Laps {
            last: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Everything since the last step was `name`.
    pub fn lap(&mut self, name: &str) {
        let took = self.next();
        self.push(name, took);
    }

    /// Everything since the last step was a call: its own `steps`, and `name` for what they leave.
    pub fn call(&mut self, name: &str, steps: Vec<StepTiming>) {
        let inner = Duration::from_micros(steps.iter().map(|s| s.micros).sum());
        let rest = self.next().saturating_sub(inner);
        self.steps.extend(steps);
        self.push(name, rest);
    }

    /// The steps so far.
    pub fn steps(&self) -> Vec<StepTiming> {
        self.steps.clone()
    }

    fn next(&mut self) -> Duration {
        let now = Instant::now();
        let took = now - self.last;
        self.last = now;
        took
    }

    fn push(&mut self, name: &str, took: Duration) {
        self.steps.push(StepTiming {
            name: name.to_owned(),
            micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_sum_to_the_whole() {
        let start = Instant::now();
        let mut laps = Laps::begin();
        std::thread::sleep(Duration::from_millis(3));
        laps.lap("first");
        std::thread::sleep(Duration::from_millis(6));
        let inner = StepTiming {
            name: "inner".into(),
            micros: 2000,
        };
        laps.call("rest", vec![inner]);
        let whole = start.elapsed().as_micros() as u64;
        let steps = laps.steps();
        let names: Vec<_> = steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["first", "inner", "rest"]);
        let sum: u64 = steps.iter().map(|s| s.micros).sum();
        assert!(whole - sum < whole / 20, "{sum} of {whole}");
    }
}
