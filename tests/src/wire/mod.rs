//! How fast is it on a wire, beside what it is to replace?
//!
//! Several systems stand at once, each in namespaces of its own: overweave by its own commands, the kernel's bridge and vxlan, Open vSwitch
//! in user space, and a repeater that looks nothing up. Single runs alternate (A B C A B C …), so that a noisy machine meets all of them;
//! each round gives one ratio of the first system to each other, and what is reported is the median of these ratios with its 95 % interval.
//!
//! - Data: one [`Stand`] a system, with four namespaces; one [`Sample`](work::Sample) a run.
//! - Owner: [`run`] owns the stands; each ends its processes and namespaces when it leaves scope, [`place::sweep`] all of them at an interrupt.
//! - Cost: an idle stand sleeps; a round takes the works' seconds times the systems.
//! - Failure: a system that does not carry a ping, or a run without a figure, ends the sitting with what was said.
//!
//! # Map
//! - [`place`]: namespaces, links, what is left of them
//! - [`system`]: what stands there
//! - [`work`]: what is asked of it
//! - [`soak`]: one system for long
//! - [`flood`]: beside a neighbour that floods
//! - [`figures`]: medians, intervals, the table and the document

pub mod figures;
pub mod flood;
pub mod place;
pub mod repeater;
pub mod rest;
pub mod soak;
pub mod system;
pub mod work;

use anyhow::Context as _;
use figures::Series;
use system::{Stand, Wanted};
use work::Work;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Sitting {
    /// The systems: the first is compared with each other.
    pub systems: Vec<Wanted>,
    /// The works.
    pub works: Vec<Work>,
    /// Rounds: one run of every system each.
    pub rounds: usize,
    /// Seconds of a run.
    pub seconds: f64,
}

/// Measures; what it finds is told as it comes by `tell`.
///
/// # Errors
/// A system that does not come up or carries nothing, a work that gives no figure.
pub fn run(sitting: &Sitting, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Series>> {
    let mut stands = vec![];
    for (number, wanted) in sitting.systems.iter().enumerate() {
        let stand = Stand::up(number, wanted).with_context(|| format!("bring up {wanted}"))?;
        tell(&format!("up: {wanted}"));
        stands.push(stand);
    }
    let mut series = vec![];
    for work in &sitting.works {
        let mut samples = vec![vec![]; stands.len()];
        for round in 0..sitting.rounds {
            for (stand, kept) in stands.iter().zip(&mut samples) {
                let sample = work
                    .run(stand, sitting.seconds)
                    .with_context(|| format!("{work} over {}", stand.wanted))?;
                tell(&format!(
                    "{work} round {} {}: {sample}",
                    round + 1,
                    stand.wanted
                ));
                kept.push(sample);
            }
        }
        let names = stands.iter().map(|stand| stand.wanted.to_string());
        series.push(Series {
            work: work.to_string(),
            systems: names.zip(samples).collect(),
        });
    }
    Ok(series)
}
