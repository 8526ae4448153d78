//! How near a converted encoder is to the exact one.

use std::fmt;
use std::time::Instant;

use linformer::analysis::fidelity;
use linformer::ndarray::ArrayView2;

use crate::encoder::TextEncoder;
use crate::error::{Error, Result};
use crate::options::EmbedOptions;

/// The cosines of vectors to those that they stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Agreement {
    /// Their mean.
    pub mean: f64,
    /// Their 5th percentile: at most a twentieth is below.
    pub low: f64,
    /// The least.
    pub least: f64,
}

impl Agreement {
    /// Compares two arrays of vectors, (texts, dimension) each, row by row.
    ///
    /// ```
    /// use linformer_text::Agreement;
    /// use linformer_text::ndarray::array;
    ///
    /// let agreement = Agreement::of(array![[1.0, 0.0], [0.0, 2.0]].view(), array![[3.0, 0.0], [1.0, 1.0]].view())?;
    /// assert!((agreement.mean - (1.0 + 0.5_f64.sqrt()) / 2.0).abs() < 1e-7);
    /// # Ok::<(), linformer_text::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the shapes differ, if there is no row, or if a number is not finite.
    pub fn of(exact: ArrayView2<'_, f32>, other: ArrayView2<'_, f32>) -> Result<Self> {
        const OPERATION: &str = "Agreement::of";
        if exact.dim() != other.dim() || exact.nrows() == 0 {
            let reason = format!(
                "both must have the same shape and a row at least, but are {:?} and {:?}",
                exact.dim(),
                other.dim()
            );
            return Err(Error::argument(OPERATION, reason));
        }
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut cosines = Vec::with_capacity(exact.nrows());
        for (exact, other) in exact.outer_iter().zip(other.outer_iter()) {
            let [exact, other] = [exact, other].map(|row| row.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
            let norms = product(&exact, &exact).sqrt() * product(&other, &other).sqrt();
            let cosine = if norms == 0.0 {
                f64::from(u8::from(exact == other))
            } else {
                product(&exact, &other) / norms
            };
            if !cosine.is_finite() {
                return Err(Error::argument(
                    OPERATION,
                    "a number is not finite; look for bad numbers in the models",
                ));
            }
            cosines.push(cosine.clamp(-1.0, 1.0));
        }
        cosines.sort_by(f64::total_cmp);
        Ok(Self {
            mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
            low: cosines[cosines.len() / 20],
            least: cosines[0],
        })
    }
}

/// How near an encoder is to the one that it was made of, and how fast both are; [`TextEncoder::fidelity`] measures it. It is displayed as a table.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fidelity {
    /// The number of pieces of text that were compared.
    pub pieces: usize,
    /// The tokens in them.
    pub tokens: usize,
    /// The cosines of the vectors.
    pub vectors: Agreement,
    /// The relative error of each layer's attention, given what the exact model's layer is given.
    pub layers: Vec<f64>,
    /// The tokens a second of the exact encoder, by the clock.
    pub exact_speed: f64,
    /// The tokens a second of the other.
    pub speed: f64,
}

impl TextEncoder {
    /// Measures how near this encoder is to `exact` on texts, cut into pieces of the exact model's own length. Take other texts than those that it was
    /// calibrated or trained on.
    ///
    /// # Errors
    /// Returns an error if the encoders differ in more than their blocks' attention and weights, if the texts have no token, or if a number is not finite.
    pub fn fidelity<T: AsRef<str> + Sync>(&self, exact: &Self, texts: &[T]) -> Result<Fidelity> {
        self.check_made_of("TextEncoder::fidelity", exact)?;
        let pieces = exact.own_pieces(texts)?;
        let tokens: usize = pieces.iter().map(crate::batch::Piece::len).sum();
        let timed = |encoder: &Self| -> Result<_> {
            let begin = Instant::now();
            let vectors = encoder.of_pieces(&pieces)?;
            Ok((vectors, tokens as f64 / begin.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)))
        };
        let (of_exact, exact_speed) = timed(exact)?;
        let (own, speed) = timed(self)?;
        let layers = fidelity(exact.model().encoder(), self.model().encoder(), &exact.inputs(texts)?)?.layers;
        Ok(Fidelity {
            pieces: pieces.len(),
            tokens,
            vectors: Agreement::of(of_exact.view(), own.view())?,
            layers,
            exact_speed,
            speed,
        })
    }

    fn of_pieces(&self, pieces: &[crate::batch::Piece]) -> Result<linformer::ndarray::Array2<f32>> {
        self.vectors_of(pieces, EmbedOptions::new().batch_tokens)
    }

    /// An error unless this encoder can be a form of `exact`: what is around the blocks is the same.
    pub(super) fn check_made_of(&self, operation: &'static str, exact: &Self) -> Result<()> {
        let sizes = |encoder: &Self| {
            let config = encoder.model().config();
            (config.encoder.dim(), config.encoder.depth, encoder.dimension())
        };
        let reason = if sizes(self) != sizes(exact) {
            "the other encoder has another width or depth"
        } else if self.pooling() != exact.pooling() || self.stored_modules() != exact.stored_modules() {
            "the other encoder makes its vectors in another way: pooling, or what follows it"
        } else if self.tokenizer().to_json()? != exact.tokenizer().to_json()? {
            "the other encoder has another tokenizer"
        } else if self.model().embedding().weight() != exact.model().embedding().weight() {
            "the other encoder has other token vectors"
        } else {
            return Ok(());
        };
        Err(Error::argument(operation, format!("{reason}; take the one that this was made of")))
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mean, low, least } = self;
        write!(formatter, "mean {mean:.4}, 5th percentile {low:.4}, least {least:.4}")
    }
}

impl fmt::Display for Fidelity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "pieces           {} of {} tokens", self.pieces, self.tokens)?;
        writeln!(formatter, "cosine           {}", self.vectors)?;
        let layers: Vec<String> = self.layers.iter().map(|error| format!("{error:.3}")).collect();
        writeln!(formatter, "error by layer   {}", layers.join(" "))?;
        write!(formatter, "tokens a second  {:.0}, exact {:.0}", self.speed, self.exact_speed)
    }
}
