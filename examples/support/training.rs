//! How the examples train.

use indicatif::{ProgressBar, ProgressStyle};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Progress, Schedule, Step, Trainable, Trainer, TrainerConfig};
use linformer::{AttentionKind, EncoderConfig, FeedForwardConfig, Parameters, TrainingPass};

use super::AnyError;
use super::clock::Clock;

/// How long a model trains.
#[derive(Clone, Copy)]
pub enum Budget {
    /// So many steps: the same model every time.
    Steps(u64),
    /// As many steps as take about so many seconds of a [`Clock`].
    Seconds(f64),
}

/// How a model trains: AdamW that forgets squares faster than by default (0.98), since runs are short; gradients of a norm of at most 1, a rate
/// that rises over the first tenth of the steps and then falls along half a cosine.
pub struct Plan {
    pub name: String,
    pub budget: Budget,
    pub rate: f64,
    /// Its step has the seed of batches and dropout.
    pub pass: TrainingPass,
    /// The share of each target that is spread over all classes.
    pub label_smoothing: f64,
}

/// What a training took.
#[derive(Clone, Copy)]
pub struct Spent {
    pub steps: u64,
    pub seconds: f64,
}

/// Batches that a training is tested on.
pub struct HeldOut<'b, B> {
    pub batches: &'b [B],
    /// The steps between two tests.
    pub every: u64,
    /// Called with each test's step and loss.
    pub report: &'b mut dyn FnMut(u64, f64),
}

/// Trains `model` on the `batch` of each step.
pub fn train<B, M>(model: &mut M, plan: &Plan, batch: impl FnMut(Step) -> Result<B, AnyError>) -> Result<Spent, AnyError>
where
    M: Trainable<B, Loss = CrossEntropy, Gradients = M> + Parameters<f32> + Clone + 'static,
{
    train_and_test(model, plan, batch, None)
}

/// [`train`], with tests on the way.
pub fn train_and_test<B, M>(
    model: &mut M,
    plan: &Plan,
    mut batch: impl FnMut(Step) -> Result<B, AnyError>,
    mut held_out: Option<HeldOut<'_, B>>,
) -> Result<Spent, AnyError>
where
    M: Trainable<B, Loss = CrossEntropy, Gradients = M> + Parameters<f32> + Clone + 'static,
{
    let steps = match plan.budget {
        Budget::Steps(steps) => steps,
        Budget::Seconds(seconds) => steps_in(seconds, model, plan, &mut batch)?,
    };
    let style = ProgressStyle::with_template("{msg:24} {bar:30} {percent:>3} %  {elapsed}  loss {prefix}")?;
    let bar = ProgressBar::new(steps).with_style(style).with_message(plan.name.clone());
    let mut average = f64::NAN;
    let (batches, every) = held_out
        .as_ref()
        .map_or((&[][..], None), |held_out| (held_out.batches, Some(held_out.every)));
    let spent = run(model, plan, steps, batch, (batches, every), |progress| {
        if let (Some(loss), Some(held_out)) = (progress.evaluation, &mut held_out) {
            (held_out.report)(progress.step, loss);
        }
        let loss = progress.loss;
        average = if average.is_nan() { loss } else { 0.98 * average + 0.02 * loss };
        bar.set_position(progress.step);
        bar.set_prefix(format!("{average:.3}"));
    })?;
    bar.finish();
    Ok(spent)
}

/// The number of steps that take so many seconds, from the time of some steps of a copy.
fn steps_in<B, M>(seconds: f64, model: &M, plan: &Plan, batch: impl FnMut(Step) -> Result<B, AnyError>) -> Result<u64, AnyError>
where
    M: Trainable<B, Loss = CrossEntropy, Gradients = M> + Parameters<f32> + Clone + 'static,
{
    const SHARE: u32 = 20;
    let clock = Clock::start();
    let spent = run(&mut model.clone(), plan, u64::MAX, batch, (&[], None), |progress| {
        if clock.seconds() >= seconds / f64::from(SHARE) {
            progress.stop();
        }
    })?;
    let steps = spent.steps as f64 * seconds / spent.seconds.max(f64::MIN_POSITIVE);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative
    Ok(steps.ceil() as u64)
}

fn run<B, M>(
    model: &mut M,
    plan: &Plan,
    steps: u64,
    mut batch: impl FnMut(Step) -> Result<B, AnyError>,
    (held_out, evaluate_every): (&[B], Option<u64>),
    report: impl FnMut(&mut Progress),
) -> Result<Spent, AnyError>
where
    M: Trainable<B, Loss = CrossEntropy, Gradients = M> + Parameters<f32> + Clone + 'static,
{
    let config = TrainerConfig::new(steps, Schedule::cosine(plan.rate, steps).with_warmup(steps / 10))
        .with_pass(plan.pass)
        .with_evaluate_every(evaluate_every)
        .with_max_norm(Some(1.0));
    let mut trainer = Trainer::new(config, AdamW::new(&*model, AdamWConfig::new().with_betas((0.9, 0.98)))?)?;
    let batches = (0..).map(|index| batch(Step::new(plan.pass.step.seed, index)));
    let loss = CrossEntropy::new().with_label_smoothing(plan.label_smoothing);
    let clock = Clock::start();
    trainer.run(model, &loss, batches, held_out, report)?;
    Ok(Spent {
        steps: trainer.batches() as u64,
        seconds: clock.seconds(),
    })
}

/// Pre-norm blocks with feed-forwards of twice the width.
pub fn encoder(attention: impl Into<AttentionKind>, depth: usize) -> EncoderConfig {
    let attention = attention.into();
    let ff_dim = attention.attention().dim * 2;
    EncoderConfig::new(attention, depth).with_feed_forward(Some(FeedForwardConfig::new(ff_dim)))
}

/// The standard deviation of token vectors that are as large as sinusoidal positions are, which otherwise drown them for the first thousand steps.
pub const AS_LARGE_AS_POSITIONS: f64 = std::f64::consts::FRAC_1_SQRT_2;
