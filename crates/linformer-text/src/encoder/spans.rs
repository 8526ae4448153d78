//! Vectors of parts of a text that was read as a whole.

use std::ops::Range;

use linformer::ndarray::Array2;

use super::TextEncoder;
use crate::batch::Piece;
use crate::error::{Error, Result};
use crate::tokens::Tokens;

const ADVICE: &str = "spans are parts of one reading; give a part of the text, or convert the model so that it reads any length";

impl TextEncoder {
    /// Computes the vectors of parts of one text, (spans, dimension), after the whole text was read at once, so that each knows what is around it
    /// ("late chunking", Günther et al., arXiv 2409.04701). Special tokens belong to no part.
    ///
    /// A span is a range of bytes. A token belongs to the span that holds the first of its bytes which is not white space: a span that begins inside
    /// of a token does not have it, and one that ends there does. Spans may overlap and leave gaps.
    ///
    /// ```
    /// use linformer_text::TextEncoder;
    ///
    /// # mod tiny { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tiny.rs")); }
    /// # let folder = tiny::tiny_folder("spans_example");
    /// let encoder = TextEncoder::open(&folder)?;
    /// let text = "Call me Ishmael. Some years ago I went to sea.";
    /// let vectors = encoder.embed_spans(text, &[0..16, 17..text.len()])?;
    /// assert_eq!(vectors.dim(), (2, encoder.dimension()));
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), linformer_text::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the text is longer than the model reads at once; if a span is empty, ends before it begins, reaches beyond the text, cuts a
    /// character, or has no token; or if the model's vector of a text is that of one token, so that parts have none.
    pub fn embed_spans(&self, text: &str, spans: &[Range<usize>]) -> Result<Array2<f32>> {
        if !self.pooling.is_of_any_tokens() {
            let reason = format!(
                "the model pools by {:?}: the vector of one token stands for the text, so that parts have none",
                self.pooling
            );
            return Err(Error::argument("TextEncoder::embed_spans", reason));
        }
        let tokens = self.tokenize(text)?;
        let limit = self.max_len().filter(|_| !self.reads_any_length());
        if let Some(limit) = limit
            && tokens.len() > limit
        {
            return Err(Error::TooLong {
                text: 0,
                tokens: tokens.len(),
                limit,
                advice: ADVICE,
            });
        }
        let starts = starts(text, &tokens);
        let rows: Vec<_> = spans
            .iter()
            .enumerate()
            .map(|(span, range)| rows_of(text, &starts, span, range))
            .collect::<Result<_>>()?;
        let mut vectors = Array2::zeros((spans.len(), self.dimension));
        if spans.is_empty() {
            return Ok(vectors);
        }
        let features = self.features(&[&Piece::of(&tokens)])?;
        for (rows, mut vector) in rows.iter().zip(vectors.outer_iter_mut()) {
            vector.assign(&self.finish(self.pooling.pool(features.view(), rows))?);
        }
        Ok(vectors)
    }
}

/// The place of each token in the text, `None` for special ones.
fn starts(text: &str, tokens: &Tokens) -> Vec<Option<usize>> {
    let start = |token| {
        let bytes = tokens.bytes(token)?;
        let own = text.get(bytes.clone()).unwrap_or("");
        let space = own.len() - own.trim_start().len();
        // White space at the end may have a place without bytes: it belongs to the text's last.
        let first = if space == own.len() { bytes.start } else { bytes.start + space };
        Some(first.min(text.len().saturating_sub(1)))
    };
    (0..tokens.len()).map(start).collect()
}

/// The tokens of a span.
fn rows_of(text: &str, starts: &[Option<usize>], span: usize, range: &Range<usize>) -> Result<Vec<usize>> {
    let refused = |reason: String| {
        Err(Error::Span {
            span,
            range: range.clone(),
            reason,
        })
    };
    if range.end > text.len() {
        return refused(format!("the text has {} bytes", text.len()));
    }
    if range.is_empty() {
        return refused("it is empty; a span must have at least one token".into());
    }
    if let Some(cut) = [range.start, range.end].into_iter().find(|&place| !text.is_char_boundary(place)) {
        return refused(format!("byte {cut} is inside of a character; begin and end between characters"));
    }
    let rows: Vec<_> = (0..starts.len())
        .filter(|&token| starts[token].is_some_and(|start| range.contains(&start)))
        .collect();
    if rows.is_empty() {
        return refused("no token begins in it; take more of the text".into());
    }
    Ok(rows)
}
