//! Positions of tokens.

mod training;

pub use training::PositionCache;

use ndarray::{Array1, Array2, Array3, ArrayRef2, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, ArrayViewMut3, s};

use super::check_width;
use crate::config::{LearnedPositions, PositionKind, SinusoidLayout, at_least_one, check_position};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::parameters::{Parameters, Role, Visitor, VisitorMut, join, parameters};
use crate::scalar::Scalar;

/// Position vectors, added to a sequence. See [`PositionKind`].
///
/// ```
/// use linformer::ndarray::Array3;
/// use linformer::{Position, PositionKind, SinusoidLayout};
///
/// let kind = PositionKind::Sinusoidal { base: 10_000.0, layout: SinusoidLayout::Interleaved, stored: false };
/// let placed = Position::<f64>::new(kind, 3, 0)?.forward(&Array3::zeros((1, 2, 3)), None)?;
/// assert_eq!(placed[[0, 0, 0]], 0.0); // sin 0
/// assert_eq!(placed[[0, 0, 1]], 1.0); // cos 0
/// assert!((placed[[0, 1, 0]] - 1.0_f64.sin()).abs() < 1e-15);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Position<A = f32> {
    kind: PositionKind,
    dim: usize,
    /// The learned vectors, (positions, dim).
    weight: Option<Array2<A>>,
    frequencies: Frequencies<A>,
}

parameters!(Position { weight } flat { frequencies });

/// Where rows begin in their sequences.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'s> {
    /// The position of the first row.
    pub(crate) position: usize,
    /// How many tokens that are not padding each item has before; none where it is empty.
    pub(crate) tokens: &'s [usize],
}

impl Start<'_> {
    fn tokens_of(self, item: usize) -> usize {
        self.tokens.get(item).copied().unwrap_or(0)
    }
}

/// How the padding of a batch, (batch, length), is recognized.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Padding<'p> {
    /// There is no padding.
    None,
    /// The ids themselves: one of them means padding.
    Ids(&'p ArrayRef2<usize>),
    /// A mask of what is real, whatever the ids are.
    Mask(ArrayView2<'p, bool>),
}

impl Padding<'_> {
    fn is_token(&self, item: usize, position: usize, padding_token: usize) -> bool {
        match self {
            Self::None => true,
            Self::Ids(tokens) => tokens[[item, position]] != padding_token,
            Self::Mask(real) => real[[item, position]],
        }
    }
}

/// The frequencies of sinusoidal positions, half as many as there are columns.
#[derive(Clone, Debug)]
enum Frequencies<A> {
    Stored(Array1<A>),
    Computed(Vec<f64>),
}

impl<A: Scalar> Parameters<A> for Frequencies<A> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        if let Self::Stored(frequencies) = self {
            visitor(&join(path, "frequencies"), Role::Buffer, frequencies.view().into_dyn());
        }
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        if let Self::Stored(frequencies) = self {
            visitor(&join(path, "frequencies"), Role::Buffer, frequencies.view_mut().into_dyn());
        }
    }
}

impl<A: Scalar> Frequencies<A> {
    fn new(kind: PositionKind, dim: usize) -> Self {
        let PositionKind::Sinusoidal { base, stored, .. } = kind else {
            return Self::Computed(Vec::new());
        };
        let frequency = |index: usize| libm::pow(base, -2.0 * index as f64 / dim as f64);
        let frequencies = (0..dim.div_ceil(2)).map(frequency);
        if stored {
            Self::Stored(frequencies.map(A::cast).collect())
        } else {
            Self::Computed(frequencies.collect())
        }
    }

    fn to_vec(&self) -> Vec<f64> {
        match self {
            Self::Stored(frequencies) => frequencies.iter().map(|frequency| frequency.widen()).collect(),
            Self::Computed(frequencies) => frequencies.clone(),
        }
    }
}

impl<A: Scalar> Position<A> {
    pub(crate) fn init(kind: PositionKind, dim: usize, streams: &mut Streams) -> Self {
        let frequencies = Frequencies::new(kind, dim);
        if let (PositionKind::Sinusoidal { base, .. }, Frequencies::Stored(stored)) = (kind, &frequencies) {
            streams.note("base", base, stored.iter());
        }
        Self {
            kind,
            dim,
            weight: kind.learned().map(|learned| streams.normal((learned.rows(), dim), 0.02)),
            frequencies,
        }
    }

    /// Makes position vectors of `dim` numbers; learned ones are normal with standard deviation 0.02.
    ///
    /// # Errors
    /// Returns an error if a size is 0, the sizes overflow, or the base is not above 0.
    pub fn new(kind: PositionKind, dim: usize, seed: u64) -> Result<Self> {
        at_least_one("dim", dim)?;
        checked_len("Position", &[dim], size_of::<f64>())?;
        check_position(kind, dim, usize::MAX)?;
        Streams::drawn(seed, |streams| Self::init(kind, dim, streams))
    }

    /// Returns the learned vectors, (positions, dim), if there are any.
    pub fn weight(&self) -> Option<ArrayView2<'_, A>> {
        self.weight.as_ref().map(|weight| weight.view())
    }

    /// Returns the learned vectors, (positions, dim), to be written, if there are any.
    pub fn weight_mut(&mut self) -> Option<ArrayViewMut2<'_, A>> {
        self.weight.as_mut().map(|weight| weight.view_mut())
    }

    /// Returns `x`, (batch, length, dim), with its vector added to every position. `tokens` (batch, length) are the ids that `x` was made of;
    /// only learned positions with a padding token look at them, and take everything for real without.
    ///
    /// # Errors
    /// Returns an error if `x` has the wrong width, `tokens` the wrong shape, or there are more positions than vectors.
    pub fn forward(&self, x: &ArrayRef3<A>, tokens: Option<&ArrayRef2<usize>>) -> Result<Array3<A>> {
        self.check("Position::forward", x, tokens)?;
        let mut placed = x.to_owned();
        let padding = tokens.map_or(Padding::None, Padding::Ids);
        self.add_from(Start::default(), &mut placed.view_mut(), padding)?;
        Ok(placed)
    }

    fn check(&self, operation: &'static str, x: &ArrayRef3<A>, tokens: Option<&ArrayRef2<usize>>) -> Result<()> {
        check_width(operation, "x", x, self.dim)?;
        let (batch, length, _) = x.dim();
        if let Some(tokens) = tokens
            && tokens.dim() != (batch, length)
        {
            return Err(Error::shape(operation, "tokens", format!("({batch}, {length})"), tokens.shape()));
        }
        Ok(())
    }

    /// Adds its vector to every position of `x`, whose rows begin at `start` in their sequences.
    pub(crate) fn add_from(&self, start: Start<'_>, x: &mut ArrayViewMut3<'_, A>, padding: Padding<'_>) -> Result<()> {
        if let (Some(learned), Some(weight)) = (self.kind.learned(), &self.weight) {
            return match learned.padding_token {
                None => add_learned(learned, weight, start.position, x),
                Some(padding_token) => add_after_padding(learned, weight, (padding, padding_token), start, x),
            };
        }
        if let PositionKind::Sinusoidal { layout, .. } = self.kind {
            let frequencies = self.frequencies.to_vec();
            let mut vector = vec![A::zero(); x.dim().2];
            for position in 0..x.dim().1 {
                sinusoid(start.position + position, &frequencies, layout, &mut vector);
                for row in x.slice_mut(s![.., position, ..]).outer_iter_mut() {
                    add(row, ArrayView1::from(&vector));
                }
            }
        }
        Ok(())
    }
}

impl<A: Scalar> Position<A> {
    /// The token that takes no position, where there is one.
    pub(crate) fn padding_token(&self) -> Option<usize> {
        self.kind.learned().and_then(|learned| learned.padding_token)
    }

    /// Makes learned positions begin anew behind the last.
    ///
    /// # Errors
    /// Returns an error, and changes nothing, where positions are not learned.
    pub(crate) fn repeat(&mut self) -> Result<()> {
        self.kind = self.kind.repeating()?;
        Ok(())
    }

    /// Adds the vector of `positions[i]` to row 0 of item i of `x`. Tokens that mean padding are not looked for.
    pub(crate) fn add_at(&self, x: &mut ArrayViewMut3<'_, A>, positions: &[usize]) -> Result<()> {
        let frequencies = self.frequencies.to_vec();
        let mut vector = vec![A::zero(); x.dim().2];
        for (mut rows, &position) in x.outer_iter_mut().zip(positions) {
            let position = self.kind.learned().map_or(position, |learned| learned.index(position));
            match (self.kind, &self.weight) {
                (PositionKind::Sinusoidal { layout, .. }, _) => {
                    sinusoid(position, &frequencies, layout, &mut vector);
                    add(rows.row_mut(0), ArrayView1::from(&vector));
                }
                (_, Some(weight)) if position < weight.nrows() => add(rows.row_mut(0), weight.row(position)),
                (_, Some(weight)) => {
                    let reason = format!(
                        "position {position} has no vector; only {} have one: make a model with a larger max_len",
                        weight.nrows()
                    );
                    return Err(Error::argument("Position", reason));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Adds the vectors of positions that are counted from `start`, whatever is padding.
fn add_learned<A: Scalar>(learned: LearnedPositions, weight: &Array2<A>, start: usize, x: &mut ArrayViewMut3<'_, A>) -> Result<()> {
    let (length, max_len) = (x.dim().1, learned.max_len);
    let end = start.saturating_add(length);
    if end > max_len && !learned.repeats {
        return Err(Error::argument(
            "Position",
            format!(
                "the sequence has {end} positions, but only {max_len} have a vector (max_len): cut it, make a model with a larger max_len, or let \
                 them repeat (with_repeating_positions)"
            ),
        ));
    }
    let mut done = 0;
    // From one end of the vectors to the next.
    while done < length {
        let first = learned.index(start.saturating_add(done));
        let run = (length - done).min(max_len - first);
        let vectors = weight.slice(s![first..first + run, ..]);
        for mut item in x.slice_mut(s![.., done..done + run, ..]).outer_iter_mut() {
            item += &vectors;
        }
        done += run;
    }
    Ok(())
}

/// Adds the vectors of positions that only tokens other than padding take.
fn add_after_padding<A: Scalar>(
    learned: LearnedPositions,
    weight: &Array2<A>,
    (padding, padding_token): (Padding<'_>, usize),
    start: Start<'_>,
    x: &mut ArrayViewMut3<'_, A>,
) -> Result<()> {
    for (item, mut rows) in x.outer_iter_mut().enumerate() {
        let indices = rows_after_padding(learned, padding, item, start.tokens_of(item), padding_token);
        for (row, index) in rows.outer_iter_mut().zip(indices) {
            if index >= weight.nrows() {
                return Err(Error::argument(
                    "Position",
                    format!(
                        "batch item {item} has more than {} tokens that are no padding, and the later ones have no vector: cut it, make a model with \
                         a larger max_len, or let them repeat (with_repeating_positions)",
                        learned.max_len
                    ),
                ));
            }
            add(row, weight.row(index));
        }
    }
    Ok(())
}

/// The row of each position's vector where only tokens that are not padding count.
fn rows_after_padding(
    learned: LearnedPositions,
    padding: Padding<'_>,
    item: usize,
    before: usize,
    padding_token: usize,
) -> impl Iterator<Item = usize> {
    let mut count = before;
    (0..).map(move |position| {
        if !padding.is_token(item, position, padding_token) {
            return padding_token;
        }
        count += 1;
        padding_token + 1 + learned.index(count - 1)
    })
}

fn add<A: Scalar>(mut row: ArrayViewMut1<'_, A>, vector: ArrayView1<'_, A>) {
    row += &vector;
}

/// Writes the sines and cosines of `position`. Odd widths have one sine more than cosines.
fn sinusoid<A: Scalar>(position: usize, frequencies: &[f64], layout: SinusoidLayout, vector: &mut [A]) {
    let sines = frequencies.len();
    for (index, frequency) in frequencies.iter().enumerate() {
        let (sine, cosine) = libm::sincos(position as f64 * frequency);
        let (first, second) = match layout {
            SinusoidLayout::Halves => (index, sines + index),
            SinusoidLayout::Interleaved => (2 * index, 2 * index + 1),
        };
        vector[first] = A::cast(sine);
        if let Some(last) = vector.get_mut(second) {
            *last = A::cast(cosine);
        }
    }
}
