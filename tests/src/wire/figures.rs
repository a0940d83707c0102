//! What do many runs say together?
//!
//! The median of the paired ratios, and the narrowest pair of order statistics around it that holds the true median with at least 95 % (the
//! binomial sign interval: no assumption on the distribution; nine pairs give the second and the eighth).

use crate::wire::work::{Better, Sample};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// All runs of one work.
#[derive(Debug, Clone)]
pub struct Series {
    /// The work.
    pub work: String,
    /// Each system's runs, in rounds.
    pub systems: Vec<(String, Vec<Sample>)>,
}

/// A median with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Middle {
    /// The median.
    pub median: f64,
    /// The interval's ends; `None` where there are too few values for 95 % (under six).
    pub interval: Option<(f64, f64)>,
}

impl Middle {
    /// Of these values.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let median = match count {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        };
        let interval = outer_rank(count).map(|rank| (sorted[rank], sorted[count - 1 - rank]));
        Self { median, interval }
    }
}

/// How many values may be cut off at each end so that the rest still holds the median with 95 %.
fn outer_rank(count: usize) -> Option<usize> {
    let total = 2f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    // The chance that fewer than `rank + 1` of `count` values lie below the median, twice.
    let mut ways = 1.0;
    let mut below = 0.0;
    let mut best = None;
    for rank in 0..count / 2 {
        below += ways;
        if 2.0 * below / total > 0.05 {
            break;
        }
        best = Some(rank);
        ways = ways * (as_f64(count) - as_f64(rank)) / (as_f64(rank) + 1.0);
    }
    best
}

#[expect(clippy::cast_precision_loss, reason = "a count of runs")]
const fn as_f64(count: usize) -> f64 {
    count as f64
}

/// The table: each system's medians, and the ratios of the first to each other.
pub fn table(series: &[Series]) -> String {
    let mut text = String::new();
    for one in series {
        let _written = writeln!(text, "\n{}", one.work);
        for (name, samples) in &one.systems {
            let _written = write!(text, "  {name:<28}");
            for (figure, values) in columns(samples) {
                let middle = Middle::of(&values);
                let (least, most) = ends(&values);
                let _written = write!(
                    text,
                    "  {figure} {:.4} [{least:.4}, {most:.4}]",
                    middle.median
                );
            }
            text.push('\n');
        }
        for (other, ratios) in pairs(one) {
            for (figure, values, better) in ratios {
                let middle = Middle::of(&values);
                let interval = middle.interval.map_or_else(
                    || "too few pairs for an interval".to_owned(),
                    |(low, high)| format!("95 % in [{low:.3}, {high:.3}]"),
                );
                let _written = writeln!(
                    text,
                    "  ratio to {other:<19}  {figure} {:.3} {interval}, {} pairs ({better} is better)",
                    middle.median,
                    values.len()
                );
            }
        }
    }
    text
}

fn ends(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

fn columns(samples: &[Sample]) -> Vec<(&'static str, Vec<f64>)> {
    let Some(first) = samples.first() else {
        return vec![];
    };
    let figures = first.figures.iter().enumerate();
    figures
        .map(|(at, figure)| {
            let values = samples.iter().map(|sample| sample.figures[at].value);
            (figure.name, values.collect())
        })
        .collect()
}

/// The ratios of the first system to the second, by figure.
pub fn ratios(series: &Series) -> Vec<(&'static str, Middle)> {
    let first = pairs(series).into_iter().next();
    let ratios = first.into_iter().flat_map(|(_, ratios)| ratios);
    ratios
        .map(|(figure, values, _)| (figure, Middle::of(&values)))
        .collect()
}

type Ratios = Vec<(&'static str, Vec<f64>, Better)>;

/// The first system's figures over each other's, round by round; a figure of zero gives no ratio.
fn pairs(series: &Series) -> Vec<(String, Ratios)> {
    let Some(((_, subject), others)) = series.systems.split_first() else {
        return vec![];
    };
    let mut all = vec![];
    for (name, samples) in others {
        let mut ratios: Ratios = vec![];
        for (at, figure) in subject
            .first()
            .iter()
            .flat_map(|s| s.figures.iter().enumerate())
        {
            let rounds = subject.iter().zip(samples);
            let values: Vec<f64> = rounds
                .map(|(mine, theirs)| mine.figures[at].value / theirs.figures[at].value)
                .filter(|ratio| ratio.is_finite())
                .collect();
            if !values.is_empty() {
                ratios.push((figure.name, values, figure.better));
            }
        }
        all.push((name.clone(), ratios));
    }
    all
}

/// The same as a document.
pub fn document(series: &[Series]) -> Value {
    let one = |series: &Series| {
        let systems = series.systems.iter().map(|(name, samples)| {
            let figures = columns(samples).into_iter().map(|(figure, values)| {
                json!({"name": figure, "median": Middle::of(&values).median, "runs": values})
            });
            json!({"system": name, "figures": figures.collect::<Vec<_>>()})
        });
        let ratios = pairs(series).into_iter().flat_map(|(other, ratios)| {
            ratios.into_iter().map(move |(figure, values, _)| {
                let middle = Middle::of(&values);
                json!({
                    "to": other, "figure": figure, "median": middle.median,
                    "low": middle.interval.map(|i| i.0), "high": middle.interval.map(|i| i.1),
                    "pairs": values.len(),
                })
            })
        });
        json!({
            "work": series.work,
            "systems": systems.collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>(),
        })
    };
    Value::Array(series.iter().map(one).collect())
}

/// Where figures were taken: without that they say nothing.
pub fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let models: Vec<&str> = models.map(|(_, model)| model).collect();
    json!({
        "processor": models.first(), "cores": models.len(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_sign_tests() {
        // Tables of the sign interval at 95 %: none for 5, the ends for 6 to 8, the second from 9 on, the third from 12 on.
        let ranks: Vec<_> = [0, 1, 5, 6, 8, 9, 11, 12, 15].map(outer_rank).into();
        let expected = [
            None,
            None,
            None,
            Some(0),
            Some(0),
            Some(1),
            Some(1),
            Some(2),
            Some(3),
        ];
        assert_eq!(ranks, expected);
        let nine: Vec<f64> = (1..10).rev().map(f64::from).collect();
        let middle = Middle::of(&nine);
        assert_eq!((middle.median, middle.interval), (5.0, Some((2.0, 8.0))));
        assert!((Middle::of(&[1.0, 2.0]).median - 1.5).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let sample = |value| Sample::of("Gb/s", value, Better::Higher);
        let series = Series {
            work: "tcp".into(),
            systems: vec![
                ("a".into(), vec![sample(4.0), sample(9.0)]),
                ("b".into(), vec![sample(2.0), sample(3.0)]),
            ],
        };
        let ratios = pairs(&series);
        assert_eq!(ratios[0].1[0].1, [2.0, 3.0]);
        let text = table(std::slice::from_ref(&series));
        assert!(text.contains("Gb/s 2.500 too few pairs"), "{text}");
        assert_eq!(document(&[series])[0]["ratios"][0]["median"], 2.5);
    }
}
