//! `-o custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[*].image`.

use anyhow::bail;
use serde_json::Value;

use super::output;
use crate::jsonpath::Template;

/// Headings, each with where its cells are found.
#[derive(Debug)]
pub struct Columns(Vec<(String, Template)>);

impl Columns {
    /// Reads `HEADING:PATH,…`. A comma within brackets is the path's own.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for part in split(text) {
            let Some((heading, path)) = part
                .split_once(':')
                .filter(|(h, p)| !h.is_empty() && !p.is_empty())
            else {
                bail!(
                    "-o custom-columns={text}: {part:?}: must be HEADING:PATH, as NAME:.metadata.name"
                );
            };
            all.push((heading.to_owned(), Template::parse(path)?));
        }
        Ok(Self(all))
    }

    /// The objects as lines.
    pub fn table<'a>(&self, objects: impl Iterator<Item = &'a Value>, headings: bool) -> String {
        let head = self.0.iter().map(|(heading, _)| heading.clone()).collect();
        let mut rows: Vec<Vec<String>> = if headings { vec![head] } else { Vec::new() };
        rows.extend(objects.map(|object| self.row(object)));
        output::columns(&rows)
    }

    fn row(&self, object: &Value) -> Vec<String> {
        let cell = |(_, path): &(String, Template)| {
            let all = path.texts(object);
            if all.is_empty() {
                "<none>".to_owned()
            } else {
                all.join(",")
            }
        };
        self.0.iter().map(cell).collect()
    }
}

fn split(text: &str) -> Vec<&str> {
    let (mut all, mut begun, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                all.push(&text[begun..at]);
                begun = at + 1;
            }
            _ => {}
        }
    }
    all.push(&text[begun..]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_what_the_paths_find() {
        let pods = [
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"image": "x"}, {"image": "y"}]}}),
            json!({"metadata": {"name": "bb"}, "status": {"ready": true}}),
        ];
        let text = "NAME:.metadata.name,IMG:.spec.containers[*].image,R:{.status.ready}";
        let columns = Columns::parse(text).unwrap();
        assert_eq!(
            columns.table(pods.iter(), true),
            "NAME   IMG      R\na      x,y      <none>\nbb     <none>   true\n"
        );
        assert_eq!(split("A:.a[?(@.b==\"c,d\")],B:.b").len(), 2);
        for wrong in ["", "NAME", "NAME:", ":.a", "A:.a,"] {
            assert!(Columns::parse(wrong).is_err(), "{wrong}");
        }
    }
}
