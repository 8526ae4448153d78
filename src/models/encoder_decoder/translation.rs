//! The likeliest targets of sources: greedy and beam search.

use ndarray::{Array2, ArrayView1};

use super::EncoderDecoder;
use crate::config::TranslationConfig;
use crate::error::{Error, Result};
use crate::models::language_model::{NOT_FINITE, first_of};
use crate::ops::exp_rows;
use crate::scalar::Scalar;

/// A target that was found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Translation {
    /// Its tokens, without the start and the end.
    pub tokens: Vec<usize>,
    /// The sum of its tokens' log-probabilities, divided as [`TranslationConfig`] says.
    pub score: f64,
    /// Whether it reached its end token, rather than the limit on its length.
    pub ended: bool,
}

/// A beginning of a target.
#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<usize>,
    sum: f64,
}

/// The search for one source.
#[derive(Debug)]
struct Search {
    /// The open hypotheses, the likeliest first.
    live: Vec<Beam>,
    /// The finished hypotheses, the best first.
    found: Vec<Translation>,
}

/// One more token of a beginning.
struct Candidate {
    beam: usize,
    token: usize,
    sum: f64,
}

impl<A: Scalar> EncoderDecoder<A> {
    /// Returns for each source the targets that [`TranslationConfig::beams`] beginnings at a time lead to, the best first; at least one each. Every
    /// score is finite: targets of probability 0 are left out, so that there are fewer where no more are possible.
    ///
    /// Sources may differ in length, and each is searched for as if it were alone. A search ends when no beginning can become better than what
    /// it has found, or at the most tokens.
    ///
    /// # Errors
    /// Returns an error if an option is out of range, if a token is outside its vocabulary, if a source or target is longer than the model allows, or
    /// if a score is NaN or infinite.
    pub fn translate(&self, sources: &[impl AsRef<[usize]>], config: &TranslationConfig) -> Result<Vec<Vec<Translation>>> {
        const OPERATION: &str = "EncoderDecoder::translate";
        config.check(self.config().target.vocab_size)?;
        self.check_length(OPERATION, config.max_new_tokens)?;
        let mut state = self.begin(sources)?;
        let mut searches: Vec<Search> = sources.iter().map(|_| Search::new()).collect();
        for length in 1..=config.max_new_tokens {
            let latest: Vec<Option<usize>> = latest(&searches, config).map(Some).collect();
            if latest.is_empty() {
                break;
            }
            let scores = log_probabilities(&self.step(&mut state, &latest)?)?;
            let mut kept = Vec::new();
            let mut first = 0;
            for search in &mut searches {
                let before = search.live.len();
                let parents = search.advance(&scores, first, length, config);
                kept.extend(parents.into_iter().map(|beam| first + beam));
                first += before;
            }
            state.select(&kept)?;
        }
        Ok(searches.into_iter().map(|search| search.finish(config)).collect())
    }
}

/// The last token of each open hypothesis, search after search.
fn latest<'s>(searches: &'s [Search], config: &'s TranslationConfig) -> impl Iterator<Item = usize> + 's {
    let live = searches.iter().flat_map(|search| &search.live);
    live.map(|beam| beam.tokens.last().copied().unwrap_or(config.start_token))
}

impl Search {
    fn new() -> Self {
        let nothing = Beam {
            tokens: Vec::new(),
            sum: 0.0,
        };
        Self {
            live: vec![nothing],
            found: Vec::new(),
        }
    }

    /// Gives every beginning its next token, the `length`th, and says which of the former ones those come from that are gone on with. `scores` has
    /// their log-probabilities, from row `first` on.
    fn advance(&mut self, scores: &Array2<f64>, first: usize, length: usize, config: &TranslationConfig) -> Vec<usize> {
        let mut live = Vec::new();
        let mut parents = Vec::new();
        for (rank, candidate) in self.candidates(scores, first, config.beams).into_iter().enumerate() {
            let Candidate { beam, token, sum } = candidate;
            let mut tokens = self.live[beam].tokens.clone();
            if token != config.end_token {
                if live.len() < config.beams {
                    tokens.push(token);
                    live.push(Beam { tokens, sum });
                    parents.push(beam);
                }
            } else if rank < config.beams {
                self.found.push(Translation {
                    tokens,
                    score: sum / config.divisor(length),
                    ended: true,
                });
            }
        }
        self.keep_best(config.beams);
        self.live = live;
        if self.is_done(config) {
            self.live.clear();
            parents.clear();
        }
        parents
    }

    /// The likeliest continuations, twice as many as there are beams, so that enough are left when some of them end. Equals keep their order, and
    /// those without a probability are none.
    fn candidates(&self, scores: &Array2<f64>, first: usize, beams: usize) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = Vec::with_capacity(self.live.len() * scores.ncols());
        for (beam, own) in self.live.iter().enumerate() {
            let row = scores.row(first + beam);
            let next = row.iter().enumerate().map(|(token, score)| Candidate {
                beam,
                token,
                sum: own.sum + score,
            });
            all.extend(next.filter(|candidate| candidate.sum.is_finite()));
        }
        let order = |a: &Candidate, b: &Candidate| b.sum.total_cmp(&a.sum).then((a.beam, a.token).cmp(&(b.beam, b.token)));
        first_of(all, beams.saturating_mul(2), order)
    }

    fn keep_best(&mut self, most: usize) {
        self.found.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.found.truncate(most);
    }

    /// Whether no open hypothesis can become better than the finished ones. Sums only fall, and divisors only rise.
    fn is_done(&self, config: &TranslationConfig) -> bool {
        let (Some(worst), true) = (self.found.last(), self.found.len() >= config.beams) else {
            return false;
        };
        let best = self.live.iter().map(|beam| beam.sum).fold(f64::NEG_INFINITY, f64::max);
        worst.score >= best / config.divisor(config.max_new_tokens)
    }

    /// Returns the finished hypotheses, followed by those that reached the limit.
    fn finish(mut self, config: &TranslationConfig) -> Vec<Translation> {
        let divisor = config.divisor(config.max_new_tokens);
        self.found.extend(self.live.iter().map(|beam| Translation {
            tokens: beam.tokens.clone(),
            score: beam.sum / divisor,
            ended: false,
        }));
        self.keep_best(config.beams);
        self.found
    }
}

/// log softmax of each row.
fn log_probabilities<A: Scalar>(scores: &Array2<A>) -> Result<Array2<f64>> {
    let mut scores = scores.mapv(A::widen);
    for mut row in scores.rows_mut() {
        let total = log_sum(row.view());
        if !total.is_finite() {
            return Err(Error::argument("EncoderDecoder::translate", NOT_FINITE));
        }
        row -= total;
    }
    Ok(scores)
}

fn log_sum(row: ArrayView1<'_, f64>) -> f64 {
    let mut exponentials = row.to_vec();
    let (mut highest, mut sum) = ([0.0], [0.0]);
    exp_rows(&mut exponentials, row.len(), row.len(), &mut highest, &mut sum);
    highest[0] + libm::log(sum[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn probabilities_add_up_to_one() {
        let logs = log_probabilities(&array![[1.0, 2.0, 1000.0], [f64::NEG_INFINITY, 0.0, 0.0]]).expect("finite");
        for row in logs.rows() {
            assert!((row.iter().map(|log| log.exp()).sum::<f64>() - 1.0).abs() < 1e-15);
        }
        assert!(log_probabilities(&array![[f64::NAN, 0.0]]).is_err());
        assert!(log_probabilities(&array![[f64::INFINITY, 0.0]]).is_err());
    }

    const NEVER: f64 = f64::NEG_INFINITY;

    /// Runs a search whose every step has the log-probabilities `row`, whatever came before.
    fn found(row: &[f64], end_token: usize, steps: usize, beams: usize) -> Vec<Translation> {
        let config = TranslationConfig::new(0, end_token, steps).with_beams(beams);
        let mut search = Search::new();
        for length in 1..=steps {
            let scores = Array2::from_shape_fn((search.live.len(), row.len()), |(_, token)| row[token]);
            search.advance(&scores, 0, length, &config);
        }
        search.finish(&config)
    }

    /// All targets that have a probability.
    fn possible(row: &[f64], end_token: usize, steps: usize) -> usize {
        let others = (0..row.len()).filter(|&token| token != end_token && row[token].is_finite()).count();
        let power = |length: usize| others.pow(u32::try_from(length).expect("small"));
        let ended = if row[end_token].is_finite() {
            (0..steps).map(power).sum()
        } else {
            0
        };
        ended + power(steps)
    }

    #[test]
    fn targets_without_a_probability_are_none() {
        let half = 0.5_f64.ln();
        let rows: [&[f64]; 6] = [
            &[NEVER, half, half, NEVER, NEVER],
            &[half, half, NEVER],
            &[NEVER, 0.0, NEVER, NEVER],
            &[0.0, NEVER, NEVER],
            &[half, NEVER, 0.25_f64.ln(), 0.25_f64.ln()],
            &[-1e308, 0.0, NEVER],
        ];
        for row in rows {
            for end_token in 0..row.len() {
                for steps in 1..=3 {
                    let possible = possible(row, end_token, steps);
                    for beams in 1..=12 {
                        let found = found(row, end_token, steps, beams);
                        let case = format!("{row:?} {end_token} {steps} {beams}: {found:?}");
                        assert!(found.iter().all(|target| target.score.is_finite()), "{case}");
                        assert!(!found.is_empty() && found.len() <= beams.min(possible), "{case}");
                        // But for those whose sums of logarithms f64 cannot hold.
                        if beams >= possible && row.iter().all(|&score| score > -1e300 || score == NEVER) {
                            assert_eq!(found.len(), possible, "{case}");
                        }
                    }
                }
            }
        }
        let targets = found(rows[0], 4, 1, 4);
        assert_eq!(targets.iter().map(|target| target.tokens[0]).collect::<Vec<_>>(), [1, 2]);
    }
}
