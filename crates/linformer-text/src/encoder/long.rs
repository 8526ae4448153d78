//! Texts that are longer than a model reads at once.

use rayon::prelude::*;

use crate::batch::Piece;
use crate::error::{Error, Result};
use crate::options::LongText;
use crate::tokenizer::Tokenizer;
use crate::tokens::Tokens;

/// What to do where a text is refused.
const ADVICE: &str = "choose what becomes of long texts with EmbedOptions::with_long (Cut, Chunks, or OnePass for a converted model)";

/// The pieces of each text, of at most `limit` tokens each.
pub(crate) fn pieces<T: AsRef<str> + Sync>(
    tokenizer: &Tokenizer,
    texts: &[T],
    limit: Option<usize>,
    long: LongText,
) -> Result<Vec<Vec<Piece>>> {
    let of_text = |(text, own): (usize, &T)| {
        let tokens = tokenizer.encode_without_places(own.as_ref())?;
        match limit {
            Some(limit) if tokens.len() > limit => cut(&tokens, text, limit, long),
            _ => Ok(vec![Piece::of(&tokens)]),
        }
    };
    // In the order of the texts, so that the error is that of the first one.
    let all: Vec<Result<Vec<Piece>>> = texts.par_iter().enumerate().map(of_text).collect();
    all.into_iter().collect()
}

/// The pieces of a text that is too long.
fn cut(tokens: &Tokens, text: usize, limit: usize, long: LongText) -> Result<Vec<Piece>> {
    let room = limit.saturating_sub(tokens.special()).max(1);
    let overlap = match long {
        LongText::Cut => return Ok(vec![Piece::of(&tokens.part(0..room, 0..0))]),
        LongText::Chunks { overlap } => overlap,
        LongText::Refuse | LongText::OnePass => {
            return Err(Error::TooLong {
                text,
                tokens: tokens.len(),
                limit,
                advice: ADVICE,
            });
        }
    };
    let (content, _) = tokens.content();
    let step = room.saturating_sub(overlap).max(1);
    let last = content.saturating_sub(room).div_ceil(step);
    let frame = tokens.frame();
    let piece = |chunk: usize| {
        let part = chunk * step..chunk * step + room;
        Piece::of(&match &frame {
            Some(frame) => tokens.window(frame, part),
            None => tokens.part(part, 0..0),
        })
    };
    Ok((0..=last).map(piece).collect())
}
