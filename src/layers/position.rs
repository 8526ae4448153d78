//! What tells a model where a token stands.

use ndarray::{Array2, ArrayRef2, ArrayView1, ArrayViewMut1, ArrayViewMut3, s};

use crate::config::{PositionKind, SinusoidLayout};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Position vectors, added to a sequence. See [`PositionKind`].
#[derive(Clone, Debug)]
pub struct Position<A = f32> {
    kind: PositionKind,
    dim: usize,
    weight: Option<Array2<A>>,
}

parameters!(Position { weight });

impl<A: Scalar> Position<A> {
    pub(crate) fn draw(kind: PositionKind, dim: usize, streams: &mut Streams) -> Self {
        let rows = match kind {
            PositionKind::Learned { max_len } => Some(max_len),
            PositionKind::LearnedAfterPadding { max_len, padding_token } => Some(max_len + padding_token + 1),
            PositionKind::None | PositionKind::Sinusoidal { .. } => None,
        };
        Self {
            kind,
            dim,
            weight: rows.map(|rows| streams.normal((rows, dim), 0.02)),
        }
    }

    /// Adds its vector to every position of `x`; `tokens` are the ids that `x` was made of, where it was made of any.
    pub(crate) fn add_to(&self, x: &mut ArrayViewMut3<'_, A>, tokens: Option<&ArrayRef2<usize>>) -> Result<()> {
        match (self.kind, &self.weight) {
            (PositionKind::Learned { max_len }, Some(weight)) => {
                if x.dim().1 > max_len {
                    return Err(Error::argument(
                        "Position",
                        format!(
                            "the sequence has {} positions, but only {max_len} have a vector (max_len)",
                            x.dim().1
                        ),
                    ));
                }
                for mut item in x.outer_iter_mut() {
                    let length = item.nrows();
                    item += &weight.slice(s![..length, ..]);
                }
            }
            (PositionKind::LearnedAfterPadding { max_len, padding_token }, Some(weight)) => {
                for (item, mut rows) in x.outer_iter_mut().enumerate() {
                    let mut count = 0;
                    for (position, row) in rows.outer_iter_mut().enumerate() {
                        let is_token = tokens.is_none_or(|tokens| tokens[[item, position]] != padding_token);
                        count += usize::from(is_token);
                        let index = if is_token { padding_token + count } else { padding_token };
                        add(row, after_padding(weight, index, max_len, item)?);
                    }
                }
            }
            (PositionKind::Sinusoidal { base, layout }, _) => {
                let mut vector = vec![A::zero(); self.dim];
                for position in 0..x.dim().1 {
                    sinusoid(position, base, layout, &mut vector);
                    for item in x.slice_mut(s![.., position, ..]).outer_iter_mut() {
                        add(item, ArrayView1::from(&vector));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn after_padding<A>(weight: &Array2<A>, index: usize, max_len: usize, item: usize) -> Result<ArrayView1<'_, A>> {
    if index < weight.nrows() {
        return Ok(weight.row(index));
    }
    Err(Error::argument(
        "Position",
        format!("batch item {item} has more than {max_len} tokens that are no padding, and the later ones have no vector (max_len)"),
    ))
}

fn add<A: Scalar>(mut row: ArrayViewMut1<'_, A>, vector: ArrayView1<'_, A>) {
    row += &vector;
}

/// Writes the sines and cosines of `position`. Odd widths have one sine more than cosines.
fn sinusoid<A: Scalar>(position: usize, base: f64, layout: SinusoidLayout, vector: &mut [A]) {
    let width = vector.len();
    let sines = width.div_ceil(2);
    let angle = |index: usize| position as f64 * base.powf(-2.0 * index as f64 / width as f64);
    for (column, value) in vector.iter_mut().enumerate() {
        *value = A::cast(match layout {
            SinusoidLayout::Halves if column < sines => angle(column).sin(),
            SinusoidLayout::Halves => angle(column - sines).cos(),
            SinusoidLayout::Interleaved if column % 2 == 0 => angle(column / 2).sin(),
            SinusoidLayout::Interleaved => angle(column / 2).cos(),
        });
    }
}
