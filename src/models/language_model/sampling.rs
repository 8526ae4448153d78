//! One token from a row of scores.

use std::cmp::Ordering;

use ndarray::ArrayView1;

use crate::config::GenerationConfig;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// Units in the last place of the element type by which the nucleus may fall short of its probability: what adds up to it in decimal does not
/// in binary.
const SLACK: f64 = 4.0;

/// Why nothing is chosen by such scores.
pub(in crate::models) const NOT_FINITE: &str =
    "a score is NaN or infinite; look for bad numbers in the model, such as a training that diverged leaves";

/// A token, given the tokens that the text already has and a number in [0, 1).
pub(super) fn choose<A: Scalar>(
    scores: ArrayView1<'_, A>,
    text: &[usize],
    config: &GenerationConfig,
    draw: impl FnOnce() -> f64,
) -> Result<usize> {
    let mut scores: Vec<f64> = scores.iter().map(|score| score.widen()).collect();
    check(&scores)?;
    penalize(&mut scores, text, config.repetition_penalty);
    // Equals keep the order of the tokens.
    let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if config.temperature == 0.0 {
        return Ok((0..scores.len()).min_by(order).unwrap_or(0));
    }
    let likeliest = first_of((0..scores.len()).collect(), config.top_k.unwrap_or(usize::MAX), order);
    let highest = scores[likeliest[0]];
    let mut weights: Vec<f64> = likeliest
        .iter()
        .map(|&token| libm::exp((scores[token] - highest) / config.temperature))
        .collect();
    let total: f64 = weights.iter().sum();
    if let Some(p) = config.top_p.filter(|&p| p < 1.0) {
        let rounding = |token: usize| {
            // A score is off by half a unit in its last place, which the exponential makes a relative error of its weight.
            let largest = highest.abs().max(scores[token].abs()) / config.temperature;
            SLACK * A::epsilon().widen() * (1.0 + largest) + likeliest.len() as f64 * f64::EPSILON
        };
        let kept = nucleus(&weights, |last, sum| sum >= p * total * (1.0 - rounding(likeliest[last])));
        weights.truncate(kept);
    }
    let mut rest = draw() * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|weight| {
        rest -= weight;
        rest < 0.0
    });
    // The remainder left by rounding belongs to the last token that has a weight.
    let last = weights.iter().rposition(|&weight| weight > 0.0);
    Ok(likeliest[drawn.or(last).unwrap_or(0)])
}

/// An error where nothing can be chosen by these scores.
fn check(scores: &[f64]) -> Result<()> {
    let reason = if scores.iter().any(|score| score.is_nan() || *score == f64::INFINITY) {
        NOT_FINITE
    } else if scores.iter().all(|&score| score == f64::NEG_INFINITY) {
        "every score is −∞, so that no token is better than another; look for bad numbers in the model, such as a training that diverged leaves"
    } else {
        return Ok(());
    };
    Err(Error::argument("LanguageModel::generate", reason))
}

/// The first `most` of `items`, in order.
pub(in crate::models) fn first_of<T>(mut items: Vec<T>, most: usize, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    if most < items.len() {
        items.select_nth_unstable_by(most, &order);
        items.truncate(most);
    }
    items.sort_unstable_by(&order);
    items
}

/// How many of the weights, which fall, are needed until their sum `is_enough`, given the index of the last of them; at least one.
fn nucleus(weights: &[f64], is_enough: impl Fn(usize, f64) -> bool) -> usize {
    let mut sum = 0.0;
    let reached = weights.iter().enumerate().position(|(last, weight)| {
        sum += weight;
        is_enough(last, sum)
    });
    reached.map_or(weights.len(), |last| last + 1)
}

fn penalize(scores: &mut [f64], text: &[usize], penalty: f64) {
    let mut seen = vec![false; scores.len()];
    for &token in text {
        if let Some(seen) = seen.get_mut(token) {
            *seen = true;
        }
    }
    for (score, _) in scores.iter_mut().zip(seen).filter(|(score, seen)| *seen && score.is_finite()) {
        let penalized = if *score > 0.0 { *score / penalty } else { *score * penalty };
        // An extreme penalty makes no number that is none.
        *score = penalized.clamp(f64::MIN, f64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, array};

    fn pick(config: &GenerationConfig, draw: f64) -> usize {
        choose(array![1.0, 3.0, 3.0, -1.0].view(), &[1], config, || draw).expect("finite scores")
    }

    #[test]
    fn choices() {
        let greedy = GenerationConfig::new(1);
        assert_eq!(pick(&greedy, 0.9), 1, "the first of equals");
        assert_eq!(pick(&greedy.clone().with_repetition_penalty(2.0), 0.9), 2);
        let drawn = greedy.with_temperature(1.0);
        assert_eq!((pick(&drawn, 0.0), pick(&drawn, 0.6), pick(&drawn, 0.999_999)), (1, 2, 3));
        assert_eq!(pick(&drawn.clone().with_top_k(Some(1)), 0.999_999), 1);
        assert_eq!(pick(&drawn.clone().with_top_k(Some(2)), 0.999_999), 2);
        assert_eq!(pick(&drawn.clone().with_top_p(Some(0.5)), 0.999_999), 2);
        assert_eq!(pick(&drawn.clone().with_top_p(Some(0.4)), 0.999_999), 1);
        assert_eq!(pick(&drawn.clone().with_temperature(1e-9), 0.999_999), 2);
    }

    /// Whatever is drawn and however the sums are rounded, a token of probability 0 is never chosen.
    #[test]
    fn what_is_impossible_is_not_drawn() {
        let config = GenerationConfig::new(1).with_temperature(1.0);
        let last = 1.0 - f64::EPSILON / 2.0;
        for a in 0..40 {
            for b in 0..40 {
                let scores = array![-3.0, -0.125 * f64::from(a), -0.125 * f64::from(b), f64::NEG_INFINITY];
                for draw in [0.0, 0.5, last] {
                    assert_ne!(
                        choose(scores.view(), &[], &config, || draw).expect("finite scores"),
                        3,
                        "{scores} {draw}"
                    );
                }
            }
        }
    }

    /// Tokens that were there stay possible: the model is not blamed for what a penalty does.
    #[test]
    fn penalties_of_any_size_leave_numbers() {
        for penalty in [f64::MIN_POSITIVE, 5e-324, 1e-3, 1.0, 1e3, f64::MAX] {
            for temperature in [0.0, 1.0] {
                let config = GenerationConfig::new(1)
                    .with_repetition_penalty(penalty)
                    .with_temperature(temperature);
                for scores in [array![-3.0, -2.0, -9.0], array![3.0, 2.0, 9.0], array![3.0, -2.0, 0.0]] {
                    let chosen = choose(scores.view(), &[0, 1, 2], &config, || 0.5);
                    assert!(chosen.is_ok(), "{scores} {config:?}");
                }
            }
        }
    }

    #[test]
    fn bad_scores_are_errors() {
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(choose(array![0.0, bad].view(), &[], &GenerationConfig::new(1), || 0.5).is_err());
        }
        for config in [GenerationConfig::new(1), GenerationConfig::new(1).with_temperature(1.0)] {
            assert!(choose(array![f64::NEG_INFINITY, f64::NEG_INFINITY].view(), &[], &config, || 0.5).is_err());
        }
        let hidden = choose(
            array![0.0, f64::NEG_INFINITY].view(),
            &[],
            &GenerationConfig::new(1).with_temperature(1.0),
            || 0.999,
        );
        assert_eq!(hidden.expect("a finite score"), 0);
    }

    /// How many tokens are drawn from at `p`.
    fn kept<A: Scalar>(probabilities: &[f64], shift: f64, p: f64) -> usize {
        let scores: Array1<A> = probabilities.iter().map(|probability| A::cast(probability.ln() + shift)).collect();
        let config = GenerationConfig::new(1).with_temperature(1.0).with_top_p(Some(p));
        let last = choose(scores.view(), &[], &config, || 1.0 - f64::EPSILON / 2.0).expect("finite scores");
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
        order.iter().position(|&token| token == last).expect("a token") + 1
    }

    /// Shares of 10, 20, 100 or 1000 equal parts, and every number of parts for p: as many tokens as whole numbers say.
    fn decimal_sums<A: Scalar>(more: f64) {
        let mut draw = 1_u64;
        let mut below = |bound: u64| {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (draw >> 33) % bound
        };
        for parts in [10_u64, 20, 100, 1000] {
            for _ in 0..60 {
                let (mut rest, mut shares) = (parts, Vec::new());
                while rest > 0 {
                    let share = 1 + below(rest.min(1 + parts / 3));
                    shares.push(share);
                    rest -= share;
                }
                let mut falling = shares.clone();
                falling.sort_unstable_by(|a, b| b.cmp(a));
                let probabilities: Vec<f64> = shares.iter().map(|&share| share as f64 / parts as f64).collect();
                for shift in [0.0, 3.0, -7.5] {
                    for own in (1..parts).step_by(1 + usize::try_from(parts).expect("small") / 50) {
                        let p = own as f64 / parts as f64;
                        let needed = |least: u64| {
                            let mut sum = 0;
                            let reached = falling.iter().position(|share| {
                                sum += share;
                                sum >= least
                            });
                            reached.expect("less than all") + 1
                        };
                        assert_eq!(kept::<A>(&probabilities, shift, p), needed(own), "{shares:?} {p} {}", A::NAME);
                        // A little more needs one part more.
                        assert_eq!(
                            kept::<A>(&probabilities, shift, p + more),
                            needed(own + 1),
                            "{shares:?} {p} {}",
                            A::NAME
                        );
                    }
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn the_nucleus_allows_for_rounding() {
        assert_eq!(kept::<f64>(&[0.3, 0.1, 0.1, 0.5], 0.0, 0.8), 2);
        assert_eq!(kept::<f32>(&[0.1, 0.2, 0.3, 0.4], 0.0, 0.4), 1);
        decimal_sums::<f32>(1e-4);
        decimal_sums::<f64>(1e-12);
    }

    #[test]
    fn all_of_the_probability_is_all_tokens() {
        for small in [1e-3, 1e-9, 1e-15] {
            assert_eq!(kept::<f32>(&[1.0, small], 0.0, 1.0), 2);
            assert_eq!(kept::<f64>(&[1.0, small], 0.0, 1.0), 2);
        }
    }
}
