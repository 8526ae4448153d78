//! Exact encoders in linear time.

mod distillation;
mod fidelity;

use linformer::analysis::{Bound, Plan, plan};
use linformer::ndarray::Array3;
use linformer::{AttentionKind, LanguageModel, LocalGlobalConfig, PaddingMask};

use crate::batch::{Padded, Piece, plan as batches};
use crate::encoder::TextEncoder;
use crate::error::{Error, Result};
use crate::options::LongText;
use crate::pooling::Pooling;

pub use distillation::{DistillationOptions, DistillationProgress, Distilled};
pub use fidelity::{Agreement, Fidelity};

/// The tokens that are put side by side for measuring.
const BATCH_TOKENS: usize = 4096;

/// What an encoder reads, with its mask.
type Input = (Array3<f32>, Option<PaddingMask>);

impl TextEncoder {
    /// Returns the encoder with its exact attention in local-global form: every token sees its own block of `block` tokens and both neighbors exactly,
    /// and the rest in at most `slots` summaries, so that time and memory grow with the length and no longer with its square. Weights stay; the texts
    /// in `calibration`, a dozen typical ones as long as those that it is for, are only measured.
    ///
    /// The result reads texts of any length with [`LongText::OnePass`]: learned positions begin anew behind the last, and summaries of longer
    /// texts keep the share of attention that they had at the model's own length. Up to two blocks of tokens it computes what the exact model does.
    /// See [`linformer::Encoder::to_local_global`].
    ///
    /// ```
    /// use linformer_text::{EmbedOptions, LongText, TextEncoder};
    ///
    /// # mod tiny { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tiny.rs")); }
    /// # let folder = tiny::tiny_folder("convert_example");
    /// let exact = TextEncoder::open(&folder)?;
    /// let long = "It is a way I have of driving off the spleen. ".repeat(100);
    /// let encoder = exact.to_local_global(16, 8, &[&long])?;
    /// let options = EmbedOptions::new().with_long(LongText::OnePass);
    /// assert_eq!(encoder.embed_with(&[&long], &options)?.dim(), (1, exact.dimension()));
    /// # std::fs::remove_dir_all(&folder).ok();
    /// # Ok::<(), linformer_text::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the model is not exact, if `block` is not a power of two, or if the texts have no token. With 0 slots, blocks alone, there is
    /// nothing to measure, and texts are an error.
    pub fn to_local_global<T: AsRef<str> + Sync>(&self, block: usize, slots: usize, calibration: &[T]) -> Result<Self> {
        let mut form = self.form()?.with_block(block).with_slots(slots);
        let mut batches = Vec::new();
        if slots == 0 && calibration.is_empty() {
            // Nothing is summarized.
            form = form.with_trained_len(None);
        } else {
            batches = self.token_batches(calibration)?;
        }
        self.with_model(self.model().to_local_global(&form, &batches)?)?.with_any_length()
    }

    /// Finds the cheapest local-global form whose vectors have a mean cosine of at least `cosine` to the exact ones, on the held-out texts, cut into
    /// pieces of the model's own length: blocks and slots of 16 to 128 are tried, the cheapest first. Give its block and slots to
    /// [`to_local_global`](Self::to_local_global).
    ///
    /// # Errors
    /// Returns an error as [`to_local_global`](Self::to_local_global) does, if `cosine` is not from −1 to 1, or if the model's vectors are not means over tokens:
    /// others are compared by [`fidelity`](Self::fidelity).
    pub fn plan_local_global<T: AsRef<str> + Sync>(&self, calibration: &[T], held_out: &[T], cosine: f64) -> Result<Plan> {
        const OPERATION: &str = "TextEncoder::plan_local_global";
        self.form()?;
        if !matches!(self.pooling(), Pooling::Mean | Pooling::MeanSqrtLen) || self.has_dense() {
            let what_follows = if self.has_dense() { " and has a Dense module after it" } else { "" };
            let reason = format!(
                "the plan compares means over tokens, but the model pools by {:?}{what_follows}; try forms with to_local_global and compare them with \
                 fidelity",
                self.pooling()
            );
            return Err(Error::argument(OPERATION, reason));
        }
        let [calibration, held_out] = [self.inputs(calibration)?, self.inputs(held_out)?];
        Ok(plan(self.model().encoder(), &calibration, &held_out, Bound::Cosine(cosine))?)
    }

    /// The base of forms: the head and weight options of the exact attention, and the length that it was trained for.
    fn form(&self) -> Result<LocalGlobalConfig> {
        let AttentionKind::Exact(attention) = &self.model().config().encoder.attention else {
            let reason = "the model's attention is not exact, so that there is nothing to convert; open the exact model";
            return Err(Error::argument("TextEncoder::to_local_global", reason));
        };
        Ok(LocalGlobalConfig::of(attention).with_trained_len(self.max_len()))
    }

    fn with_any_length(self) -> Result<Self> {
        if self.max_len().is_none() {
            return Ok(self);
        }
        let model = self.model().clone().with_repeating_positions()?;
        self.with_model(model)
    }

    /// The pieces of texts, of the model's own length at most.
    fn own_pieces<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Piece>> {
        let pieces = crate::encoder::pieces(self.tokenizer(), texts, self.max_len(), LongText::Chunks { overlap: 0 })?;
        let pieces: Vec<Piece> = pieces.into_iter().flatten().filter(|piece| piece.weight > 0).collect();
        if pieces.is_empty() {
            return Err(Error::argument(
                "TextEncoder",
                "the texts have no tokens to measure; give some that are not empty",
            ));
        }
        Ok(pieces)
    }

    fn padded_pieces<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Padded>> {
        let pieces = self.own_pieces(texts)?;
        let lengths: Vec<usize> = pieces.iter().map(Piece::len).collect();
        let batches = batches(&lengths, BATCH_TOKENS).into_iter();
        batches
            .map(|batch| Padded::of(&batch.iter().map(|&index| &pieces[index]).collect::<Vec<_>>()))
            .collect()
    }

    fn token_batches<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<(linformer::ndarray::Array2<usize>, Option<PaddingMask>)>> {
        let padded = self.padded_pieces(texts)?;
        Ok(padded.into_iter().map(|batch| (batch.ids, Some(batch.mask))).collect())
    }

    /// What the encoder is given for these texts.
    fn inputs<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Input>> {
        let padded = self.padded_pieces(texts)?.into_iter();
        padded.map(|batch| input_of(self.model(), batch)).collect()
    }
}

fn input_of(model: &LanguageModel<f32>, batch: Padded) -> Result<Input> {
    let x = model.encoder_input(&batch.ids, Some(&batch.mask))?;
    Ok((x, Some(batch.mask)))
}
