//! One token from a row of scores.

use ndarray::ArrayView1;

use crate::config::GenerationConfig;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// A token, given the tokens that the text already has and a number in [0, 1).
pub(super) fn choose<A: Scalar>(
    scores: ArrayView1<'_, A>,
    text: &[usize],
    config: &GenerationConfig,
    draw: impl FnOnce() -> f64,
) -> Result<usize> {
    let mut scores: Vec<f64> = scores.iter().map(|score| score.widen()).collect();
    penalise(&mut scores, text, config.repetition_penalty);
    if scores.iter().any(|score| score.is_nan() || *score == f64::INFINITY) {
        return Err(Error::argument(
            "CausalLanguageModel::generate",
            "a score is NaN or infinite: the model has bad numbers",
        ));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Ties keep the order of the tokens.
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    if scores.iter().all(|&score| score == f64::NEG_INFINITY) {
        return Err(Error::argument(
            "CausalLanguageModel::generate",
            "every score is −∞, so that no token is better than another: the model has bad numbers",
        ));
    }
    if config.temperature == 0.0 {
        return Ok(order[0]);
    }
    order.truncate(config.top_k.unwrap_or(usize::MAX));
    let highest = scores[order[0]];
    let mut weights: Vec<f64> = order
        .iter()
        .map(|&token| ((scores[token] - highest) / config.temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    if let Some(p) = config.top_p {
        weights.truncate(nucleus(&weights, p * total));
    }
    let mut rest = draw() * weights.iter().sum::<f64>();
    for (&token, weight) in order.iter().zip(&weights) {
        rest -= weight;
        if rest < 0.0 {
            return Ok(token);
        }
    }
    Ok(order[weights.len() - 1])
}

/// How many of the weights, which fall, are needed to reach `mass`; at least one.
fn nucleus(weights: &[f64], mass: f64) -> usize {
    let mut sum = 0.0;
    let reached = weights.iter().position(|weight| {
        sum += weight;
        sum >= mass
    });
    reached.map_or(weights.len(), |last| last + 1)
}

fn penalise(scores: &mut [f64], text: &[usize], penalty: f64) {
    let mut seen = vec![false; scores.len()];
    for &token in text {
        if let Some(seen) = seen.get_mut(token) {
            *seen = true;
        }
    }
    for (score, _) in scores.iter_mut().zip(seen).filter(|(_, seen)| *seen) {
        *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

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
}
