//! An encoder that learns from another: its hidden states and its pooled output.

use ndarray::{Array2, Array3, ArrayView1, ArrayViewMut1, Axis, Zip};

use super::Trainable;
use super::batches::real_positions;
use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::config::{Pooling, TrainingPass};
use crate::error::{Error, Result};
use crate::models::{pool, pool_backward};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

const OPERATION: &str = "Distillation";

/// Inputs of an encoder, (batch, n, dim), without targets: [`Distillation`] takes them from the teacher.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EncoderBatch<A = f32> {
    /// (batch, n, dim), as [`LanguageModel::encoder_input`](crate::LanguageModel::encoder_input) makes them of tokens.
    pub x: Array3<A>,
    /// The mask of real positions; all are real if `None`.
    pub mask: Option<PaddingMask>,
}

impl<A: Scalar> EncoderBatch<A> {
    /// Creates a batch without padding.
    pub fn new(x: Array3<A>) -> Self {
        Self { x, mask: None }
    }

    /// Sets the mask of real positions.
    #[must_use]
    pub fn with_mask<'m>(mut self, mask: impl Into<Option<&'m PaddingMask>>) -> Self {
        self.mask = mask.into().cloned();
        self
    }
}

/// The loss of an [`Encoder`] that is to do what another, its teacher, does with the same inputs: an exact encoder's local-global form, say.
///
/// It is Σ over the layers of ‖h − t‖² / ‖t − t̄‖², plus `cosine_weight` times the mean over the sequences of 1 − cos(p, q). h and t are the
/// [`hidden_states`](Encoder::hidden_states) of student and teacher at the real positions, t̄ the mean of all numbers of t, p and q the pooled outputs. So a
/// layer counts 1 while the student does no better than a constant, and 0 when it does what the teacher does.
///
/// ```
/// use linformer::ndarray::Array3;
/// use linformer::training::{AdamW, AdamWConfig, Distillation, EncoderBatch, Schedule, Trainer, TrainerConfig};
/// use linformer::{AttentionConfig, Encoder, EncoderConfig, LocalGlobalConfig};
///
/// let attention = AttentionConfig::new(16, 2);
/// let teacher = Encoder::<f32>::new(&EncoderConfig::new(attention.clone(), 2), 0)?;
/// let text = |seed: usize| Array3::from_shape_fn((2, 60, 16), |(b, t, i)| ((seed + b * 31 + t * 16 + i) as f32).sin());
/// let form = LocalGlobalConfig::of(&attention).with_block(8).with_slots(4);
/// let mut student = teacher.to_local_global(&form, &[(text(0), None)])?;
///
/// let mut trainer = Trainer::new(TrainerConfig::new(20, Schedule::cosine(1e-3, 20)), AdamW::new(&student, AdamWConfig::new())?)?;
/// let batches = (1..).map(|seed| Ok::<_, linformer::Error>(EncoderBatch::new(text(seed))));
/// let mut losses = Vec::new();
/// trainer.run(&mut student, &Distillation::new(teacher), batches, &[], |progress| losses.push(progress.loss))?;
/// assert!(losses[19] < losses[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Distillation<A = f32> {
    teacher: Encoder<A>,
    pooling: Pooling,
    cosine_weight: f64,
}

impl<A: Scalar> Distillation<A> {
    /// Creates the loss with a teacher, mean pooling and a weight of 1 for the cosines.
    pub fn new(teacher: Encoder<A>) -> Self {
        Self {
            teacher,
            pooling: Pooling::Mean,
            cosine_weight: 1.0,
        }
    }

    /// Sets how one vector is made of a sequence's outputs; the mean of its real positions by default.
    #[must_use]
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// Sets the weight of the cosines, at least 0; 1 by default.
    #[must_use]
    pub fn with_cosine_weight(mut self, weight: f64) -> Self {
        self.cosine_weight = weight;
        self
    }

    /// Returns the teacher.
    pub fn teacher(&self) -> &Encoder<A> {
        &self.teacher
    }

    /// Returns the loss of a student's hidden states, and their gradients in their place.
    fn of_states(&self, states: &mut [Array3<A>], batch: &EncoderBatch<A>) -> Result<f64> {
        if !(self.cosine_weight >= 0.0 && self.cosine_weight.is_finite()) {
            let reason = "the weight of the cosines must be a finite number from 0 on";
            return Err(Error::config("cosine_weight", self.cosine_weight, reason));
        }
        let mask = batch.mask.as_ref();
        let of_teacher = self.teacher.hidden_states(&batch.x, mask)?;
        let shapes = |states: &[Array3<A>]| states.iter().map(Array3::dim).collect::<Vec<_>>();
        if shapes(states) != shapes(&of_teacher) {
            let reason = "the teacher has another depth or other widths than the student; take encoders of one model";
            return Err(Error::argument(OPERATION, reason));
        }
        // The last state is read for the cosines before gradients take its place.
        let (cosines, of_output) = match (states.last(), of_teacher.last()) {
            (Some(output), Some(of_teacher)) if self.cosine_weight > 0.0 => self.of_outputs(output, of_teacher, mask),
            _ => (0.0, None),
        };
        let mut loss = cosines;
        for (layer, (state, of_teacher)) in states.iter_mut().zip(&of_teacher).enumerate() {
            loss += layer_loss(layer, state, of_teacher, mask)?;
        }
        if let (Some(gradient), Some(of_output)) = (states.last_mut(), of_output) {
            *gradient += &of_output;
        }
        Ok(loss)
    }

    /// The weighted mean of 1 − cosine of the pooled outputs, and its gradient.
    fn of_outputs(&self, output: &Array3<A>, of_teacher: &Array3<A>, mask: Option<&PaddingMask>) -> (f64, Option<Array3<A>>) {
        let [own, target] = [output, of_teacher].map(|x| pool(x, self.pooling, mask));
        let items = own.nrows();
        let is_real = |item: usize| mask.is_none_or(|mask| mask.item(item).iter().any(|&real| real));
        let real: Vec<usize> = (0..items).filter(|&item| is_real(item)).collect();
        let weight = self.cosine_weight / real.len().max(1) as f64;
        let mut gradient = Array2::zeros(own.dim());
        let losses = real
            .into_iter()
            .map(|item| weight * cosine_loss(own.row(item), target.row(item), weight, gradient.row_mut(item)));
        let loss = losses.sum();
        (loss, Some(pool_backward(output, &gradient, self.pooling, mask)))
    }
}

/// ‖h − t‖² / ‖t − t̄‖² at the real positions; its gradient takes the place of h, 0 at padding.
fn layer_loss<A: Scalar>(layer: usize, state: &mut Array3<A>, of_teacher: &Array3<A>, mask: Option<&PaddingMask>) -> Result<f64> {
    let is_real = |item, position| mask.is_none_or(|mask| mask.is_real(item, position));
    let (mut count, mut sum, mut squares) = (0_usize, 0.0, 0.0);
    for_each_row(of_teacher, is_real, |row| {
        count += row.len();
        sum += row.iter().map(|x| x.widen()).sum::<f64>();
    });
    let mean = sum / count.max(1) as f64;
    for_each_row(of_teacher, is_real, |row| {
        squares += row.iter().map(|x| (x.widen() - mean).powi(2)).sum::<f64>();
    });
    let mut differences = 0.0;
    for (item, (mut rows, targets)) in state.axis_iter_mut(Axis(0)).zip(of_teacher.axis_iter(Axis(0))).enumerate() {
        for (position, (mut row, target)) in rows.outer_iter_mut().zip(targets.outer_iter()).enumerate() {
            if !is_real(item, position) {
                row.fill(A::zero());
                continue;
            }
            Zip::from(&mut row).and(&target).for_each(|x, &target| {
                let difference = x.widen() - target.widen();
                differences += difference * difference;
                *x = A::cast(2.0 * difference / squares);
            });
        }
    }
    if differences == 0.0 {
        state.fill(A::zero());
        return Ok(0.0);
    }
    if squares == 0.0 {
        let reason = format!(
            "the teacher's hidden state of layer {layer} is the same number everywhere, so that no difference can be measured by it"
        );
        return Err(Error::argument(OPERATION, reason));
    }
    Ok(differences / squares)
}

fn for_each_row<A>(x: &Array3<A>, is_real: impl Fn(usize, usize) -> bool, mut each: impl FnMut(ArrayView1<'_, A>)) {
    for (item, rows) in x.axis_iter(Axis(0)).enumerate() {
        let real = rows.outer_iter().enumerate().filter(|&(position, _)| is_real(item, position));
        real.for_each(|(_, row)| each(row));
    }
}

/// 1 − cos(x, y), and `weight` times its gradient by x. Where one of them is 0, so is the gradient, and the loss is 1, or 0 if both are.
fn cosine_loss<A: Scalar>(x: ArrayView1<'_, A>, y: ArrayView1<'_, A>, weight: f64, mut gradient: ArrayViewMut1<'_, A>) -> f64 {
    let product = |a: ArrayView1<'_, A>, b: ArrayView1<'_, A>| a.iter().zip(b).map(|(a, b)| a.widen() * b.widen()).sum::<f64>();
    let (xx, yy) = (product(x, x), product(y, y));
    let are_zero = [xx, yy].map(|square| square == 0.0);
    if are_zero != [false, false] {
        return f64::from(u8::from(are_zero != [true, true]));
    }
    let norms = xx.sqrt() * yy.sqrt();
    let cosine = product(x, y) / norms;
    Zip::from(&mut gradient).and(x).and(y).for_each(|gradient, x, y| {
        *gradient = A::cast(weight * (cosine * x.widen() / xx - y.widen() / norms));
    });
    1.0 - cosine
}

impl<A: Scalar> Trainable<EncoderBatch<A>, A> for Encoder<A> {
    type Loss = Distillation<A>;
    type Gradients = Self;

    fn loss_and_gradients(&self, batch: &EncoderBatch<A>, loss: &Distillation<A>, pass: &TrainingPass) -> Result<(f64, Self)> {
        let (mut states, cache) = self.forward_train_hidden(&batch.x, batch.mask.as_ref(), pass)?;
        let loss = pass.step.finite_loss(loss.of_states(&mut states, batch)?)?;
        let mut gradients = self.zeros_like();
        self.backward_hidden(cache, states, &mut gradients)?;
        Ok((loss, gradients))
    }

    fn evaluate(&self, batch: &EncoderBatch<A>, loss: &Distillation<A>) -> Result<f64> {
        loss.of_states(&mut self.hidden_states(&batch.x, batch.mask.as_ref())?, batch)
    }

    fn tokens(&self, batch: &EncoderBatch<A>) -> usize {
        real_positions(batch.mask.as_ref(), (batch.x.dim().0, batch.x.dim().1))
    }
}
