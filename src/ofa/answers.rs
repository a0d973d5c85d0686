//! Which few logits decide between the answers.
//!
//! The reference scores every answer with a full decoder pass over the whole vocabulary, the logits
//! restricted to the children of a trie over `answer + </s>`. A node with one child adds log 1 = 0,
//! so only the branching nodes count: with one-token answers that is a single row and as many dot
//! products as there are answers, and the scores are the same.

/// Answers that cannot be told apart or scored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// There are none.
    #[error("there are no answers")]
    None,
    /// An answer has no tokens.
    #[error("answer {0} has no tokens")]
    Empty(usize),
    /// Two answers have the same tokens.
    #[error("answers {0} and {1} have the same tokens")]
    Same(usize, usize),
}

/// A trie over the answers' tokens, reduced to what must be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerTrie {
    /// What the decoder reads behind the prompt, one row each; no path is a prefix of another.
    paths: Vec<Vec<u32>>,
    branches: Vec<Branch>,
    /// Every token that is a child of a branch, each once.
    tokens: Vec<u32>,
    answers: usize,
}

/// A node of the trie with several children.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Branch {
    /// Index of a path that goes through this node, and how far along it the node is.
    path: usize,
    depth: usize,
    /// Index into the tokens, and the answers that go on through that child.
    children: Vec<(usize, Vec<usize>)>,
}

impl AnswerTrie {
    /// Builds the trie of answers, given as token ids without beginning and end; `end` closes each.
    ///
    /// # Errors
    /// When two answers are the same, one is empty or there are none.
    pub fn new(answers: &[Vec<u32>], end: u32) -> Result<Self, AnswerError> {
        if answers.is_empty() {
            return Err(AnswerError::None);
        }
        for (index, answer) in answers.iter().enumerate() {
            if answer.is_empty() {
                return Err(AnswerError::Empty(index));
            }
            if let Some(other) = answers[..index].iter().position(|other| other == answer) {
                return Err(AnswerError::Same(other, index));
            }
        }
        let closed: Vec<Vec<u32>> = answers.iter().map(|answer| [answer.as_slice(), &[end]].concat()).collect();
        let nodes = branching_nodes(&closed);
        let mut paths: Vec<Vec<u32>> = Vec::new();
        for (prefix, _) in &nodes {
            let goes_on = nodes.iter().any(|(other, _)| other.len() > prefix.len() && other.starts_with(prefix));
            if !goes_on {
                paths.push(prefix.clone());
            }
        }
        // A single answer has no branch; one path keeps the shapes alive.
        if paths.is_empty() {
            paths.push(Vec::new());
        }
        let mut tokens: Vec<u32> =
            nodes.iter().flat_map(|(_, children)| children.iter().map(|(token, _)| *token)).collect();
        tokens.sort_unstable();
        tokens.dedup();
        if tokens.is_empty() {
            tokens.push(end);
        }
        let branches = nodes.into_iter().map(|(prefix, children)| Branch {
            path: paths.iter().position(|path| path.starts_with(&prefix)).unwrap_or_default(),
            depth: prefix.len(),
            children: children
                .into_iter()
                .map(|(token, through)| (tokens.partition_point(|&t| t < token), through))
                .collect(),
        });
        Ok(Self { branches: branches.collect(), paths, tokens, answers: answers.len() })
    }

    /// What the decoder reads behind the prompt, one row each.
    pub fn paths(&self) -> &[Vec<u32>] {
        &self.paths
    }

    /// The tokens whose logits are needed, ascending.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many answers there are.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// Of answers that one branch tells apart: the index into the tokens of each answer's own, in the answers' order.
    pub fn columns(&self) -> Vec<usize> {
        let children = self.branches.first().map_or(&[][..], |branch| branch.children.as_slice());
        let column = |answer| children.iter().find(|(_, through)| through.contains(&answer)).map(|(token, _)| *token);
        (0..self.answers).filter_map(column).collect()
    }

    /// The rows to read: index of the path, and how many of its tokens lie before the row.
    pub fn reads(&self) -> impl Iterator<Item = (usize, usize)> {
        self.branches.iter().map(|branch| (branch.path, branch.depth))
    }

    /// Log-probability of each answer from the logits `[reads][tokens]` of one request.
    pub fn log_probabilities(&self, logits: &[f32]) -> Vec<f32> {
        let mut scores = vec![0.0; self.answers];
        for (branch, row) in self.branches.iter().zip(logits.chunks_exact(self.tokens.len())) {
            let children: Vec<f32> = branch.children.iter().map(|&(token, _)| row[token]).collect();
            let normalizer = log_sum_exp(&children);
            for ((_, through), logit) in branch.children.iter().zip(&children) {
                for &answer in through {
                    scores[answer] += logit - normalizer;
                }
            }
        }
        scores
    }

    /// Softmax over the answers' log-probabilities, divided by a temperature (Guo et al., 2017).
    pub fn probabilities(log_probabilities: &[f32], temperature: f32) -> Vec<f32> {
        let scaled: Vec<f32> = log_probabilities.iter().map(|score| score / temperature).collect();
        let normalizer = log_sum_exp(&scaled);
        scaled.iter().map(|score| (score - normalizer).exp()).collect()
    }
}

/// Prefix and children of every node with several children; a child is a token and the answers that
/// go on through it.
type Node = (Vec<u32>, Vec<(u32, Vec<usize>)>);

fn branching_nodes(closed: &[Vec<u32>]) -> Vec<Node> {
    let mut prefixes: Vec<&[u32]> =
        closed.iter().flat_map(|answer| (0..answer.len()).map(|depth| &answer[..depth])).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let children_of = |prefix: &[u32]| {
        let mut children: Vec<(u32, Vec<usize>)> = Vec::new();
        for (index, answer) in closed.iter().enumerate() {
            let Some(&token) = answer.strip_prefix(prefix).and_then(<[u32]>::first) else { continue };
            match children.iter_mut().find(|(child, _)| *child == token) {
                Some((_, through)) => through.push(index),
                None => children.push((token, vec![index])),
            }
        }
        children
    };
    prefixes
        .into_iter()
        .map(|prefix| (prefix.to_vec(), children_of(prefix)))
        .filter(|(_, children)| children.len() > 1)
        .collect()
}

fn log_sum_exp(values: &[f32]) -> f32 {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest + values.iter().map(|value| (value - largest).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_answers_need_one_row_and_give_the_softmax_of_their_logits() {
        let trie = AnswerTrie::new(&[vec![9], vec![5], vec![7]], 2).unwrap();
        assert_eq!(trie.paths(), [Vec::<u32>::new()]);
        assert_eq!(trie.tokens(), [5, 7, 9]);
        assert_eq!(trie.reads().collect::<Vec<_>>(), [(0, 0)]);
        let scores = trie.log_probabilities(&[1.0, 2.0, 3.0]);
        let probabilities = AnswerTrie::probabilities(&scores, 1.0);
        let total: f32 = [1.0f32, 2.0, 3.0].iter().map(|x| x.exp()).sum();
        for (got, logit) in probabilities.iter().zip([3.0f32, 1.0, 2.0]) {
            assert!((got - logit.exp() / total).abs() < 1e-6);
        }
    }

    #[test]
    fn an_answer_that_begins_another_is_told_apart_by_the_end() {
        // "no", "no way", "yes sir", "yes dear": branches at the root, behind "no" and behind "yes".
        let trie = AnswerTrie::new(&[vec![4], vec![4, 8], vec![5, 6], vec![5, 7]], 2).unwrap();
        assert_eq!(trie.paths(), [vec![4], vec![5]]);
        assert_eq!(trie.tokens(), [2, 4, 5, 6, 7, 8]);
        assert_eq!(trie.reads().collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 1)]);
        let even = trie.log_probabilities(&[0.0; 18]);
        for score in even {
            assert!((score - 0.25f32.ln()).abs() < 1e-6);
        }
    }

    #[test]
    fn answers_that_cannot_be_told_apart_are_refused() {
        assert_eq!(AnswerTrie::new(&[], 2), Err(AnswerError::None));
        assert_eq!(AnswerTrie::new(&[vec![4], vec![]], 2), Err(AnswerError::Empty(1)));
        assert_eq!(AnswerTrie::new(&[vec![4], vec![5], vec![4]], 2), Err(AnswerError::Same(0, 2)));
    }

    proptest::proptest! {
        #[test]
        fn probabilities_sum_to_one_unless_an_answer_begins_another(
            answers in proptest::collection::hash_set(proptest::collection::vec(3u32..6, 2..=2), 1..5),
            seed in proptest::collection::vec(-5.0f32..5.0, 64),
        ) {
            let answers: Vec<Vec<u32>> = answers.into_iter().collect();
            let trie = AnswerTrie::new(&answers, 2).unwrap();
            let rows = trie.reads().count();
            let scores = trie.log_probabilities(&seed[..rows * trie.tokens().len()]);
            let total: f32 = scores.iter().map(|score| score.exp()).sum();
            proptest::prop_assert!((total - 1.0).abs() < 1e-4, "{}", total);
        }
    }
}
