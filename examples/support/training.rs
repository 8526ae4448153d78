//! The training loop that examples share.

use indicatif::{ProgressBar, ProgressStyle};
use linformer::training::{AdamW, AdamWConfig, Optimizer, Schedule, Step};
use linformer::{AttentionKind, EncoderConfig, FeedForwardConfig, Parameters, PositionKind, SinusoidLayout};

use super::AnyError;
use super::clock::Clock;

/// How long a model trains.
#[derive(Clone, Copy)]
pub enum Budget {
    /// So many steps: the same model every time.
    Steps(u64),
    /// So many seconds of a [`Clock`].
    Seconds(f64),
}

/// How a model trains: AdamW that forgets squares faster than by default (0.98), since runs are short; gradients of a norm of at most 1, a rate
/// that rises over the first tenth of the budget and then falls along half a cosine.
pub struct Plan {
    pub name: String,
    pub budget: Budget,
    pub rate: f64,
    pub seed: u64,
}

/// What a training took.
#[derive(Clone, Copy)]
pub struct Spent {
    pub steps: u64,
    pub seconds: f64,
}

/// Trains `model` on what `gradients` gives for each step: a loss and the gradients of all parameters.
pub fn train<M: Parameters<f32>>(
    model: &mut M,
    plan: &Plan,
    mut gradients: impl FnMut(&M, Step) -> Result<(f64, M), AnyError>,
) -> Result<Spent, AnyError> {
    let mut optimizer = AdamW::new(&*model, AdamWConfig::new().with_betas((0.9, 0.98)))?;
    let schedule = Schedule::cosine(plan.rate, SHARES).with_warmup(SHARES / 10);
    let (bar, clock) = (bar(plan)?, Clock::start());
    let (mut steps, mut average) = (0, f64::NAN);
    loop {
        let done = match plan.budget {
            Budget::Steps(all) => steps as f64 / all as f64,
            Budget::Seconds(all) => clock.seconds() / all,
        };
        if done >= 1.0 {
            break;
        }
        let share = shares(done);
        let (loss, mut gradient) = gradients(model, Step::new(plan.seed, steps))?;
        optimizer.clip_gradient_norm(&mut gradient, 1.0)?;
        optimizer.step(model, &gradient, schedule.at(share))?;
        average = if average.is_nan() { loss } else { 0.98 * average + 0.02 * loss };
        bar.set_position(share);
        bar.set_prefix(format!("{average:.3}"));
        steps += 1;
    }
    bar.finish();
    Ok(Spent {
        steps,
        seconds: clock.seconds(),
    })
}

/// In how many parts a budget is cut for the schedule and the bar.
const SHARES: u64 = 10_000;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of a number from 0 to 1
fn shares(done: f64) -> u64 {
    (done * SHARES as f64) as u64
}

fn bar(plan: &Plan) -> Result<ProgressBar, AnyError> {
    let style = ProgressStyle::with_template("{msg:24} {bar:30} {percent:>3} %  {elapsed}  loss {prefix}")?;
    Ok(ProgressBar::new(SHARES).with_style(style).with_message(plan.name.clone()))
}

/// Pre-norm blocks with feed-forwards of twice the width.
pub fn encoder(attention: impl Into<AttentionKind>, depth: usize) -> EncoderConfig {
    let attention = attention.into();
    let ff_dim = attention.attention().dim * 2;
    EncoderConfig::new(attention, depth).with_feed_forward(Some(FeedForwardConfig::new(ff_dim)))
}

/// Sinusoidal positions as the original Transformer has them.
pub fn sinusoidal() -> PositionKind {
    PositionKind::Sinusoidal {
        base: 10_000.0,
        layout: SinusoidLayout::Interleaved,
        stored: false,
    }
}

/// Makes the token vectors of a new model as large as sinusoidal positions are, which otherwise drown them for the first thousand steps.
pub fn match_positions(model: &mut impl Parameters<f32>) {
    const DRAWN: f32 = 0.02;
    let factor = std::f32::consts::FRAC_1_SQRT_2 / DRAWN;
    model.visit_mut("", &mut |name, _, mut parameter| {
        if name == "embedding.weight" {
            parameter.mapv_inplace(|value| value * factor);
        }
    });
}
