//! Shows nodes and slots as the server's own tables say them.

use std::io::{ErrorKind, Write};

use serde::Deserialize;
use serde_json::Value;
use tabwriter::TabWriter;

use super::args::Top;
use super::client::Actors;
use super::error::Error;

/// Between two columns, as kubectl has it.
const PADDING: usize = 3;

/// A `meta.k8s.io/v1 Table`, as far as it is shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    /// Above zero: only shown when more is asked for.
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
struct Row {
    cells: Vec<Value>,
    #[serde(default)]
    object: Value,
}

/// Prints the nodes, then the slots.
pub(super) async fn show(actors: &Actors, what: &Top, to: impl Write) -> Result<(), Error> {
    let nodes: Table = actors.table("nodeagents", false).await?;
    let slots: Table = actors.table("workers", !what.all_namespaces).await?;
    let mut to = TabWriter::new(to).padding(PADDING);
    let written = nodes.print("NODE", false, &mut to).and_then(|()| {
        writeln!(to)?;
        slots.print("SLOT", what.all_namespaces, &mut to)?;
        to.flush()
    });
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

impl Table {
    /// `of`: what its rows are. With `namespaces` each row begins with its own.
    fn print(&self, of: &str, namespaces: bool, to: &mut impl Write) -> std::io::Result<()> {
        let columns = self.column_definitions.iter().enumerate();
        let shown: Vec<usize> = columns
            .filter(|(_, c)| c.priority == 0)
            .map(|(at, _)| at)
            .collect();
        let title = |at: &usize| match *at {
            0 => of.to_owned(),
            at => self.column_definitions[at].name.to_uppercase(),
        };
        let first = namespaces.then(|| "NAMESPACE".to_owned());
        let titles = first.into_iter().chain(shown.iter().map(title));
        writeln!(to, "{}", titles.collect::<Vec<_>>().join("\t"))?;
        for row in &self.rows {
            let namespace = row.object.pointer("/metadata/namespace").map(text);
            let first = namespace.filter(|_| namespaces);
            let cells = shown
                .iter()
                .map(|&at| row.cells.get(at).map(text).unwrap_or_default());
            let cells = first.into_iter().chain(cells);
            writeln!(to, "{}", cells.collect::<Vec<_>>().join("\t"))?;
        }
        Ok(())
    }
}

/// A cell as text.
fn text(cell: &Value) -> String {
    cell.as_str()
        .map_or_else(|| cell.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::stub::Stub;
    use super::*;

    fn table(titles: &[(&str, i32)], rows: &[(&str, &[&str])]) -> Value {
        let columns = titles
            .iter()
            .map(|(name, priority)| json!({"name": name, "priority": priority}));
        let rows = rows.iter().map(|(namespace, cells)| {
            json!({"cells": cells, "object": {"metadata": {"namespace": namespace}}})
        });
        json!({"columnDefinitions": columns.collect::<Vec<_>>(), "rows": rows.collect::<Vec<_>>()})
    }

    async fn shown(all_namespaces: bool) -> (String, Vec<String>) {
        let nodes = [("Name", 0), ("Spool", 0), ("Address", 1)];
        let stub = Stub::start(vec![
            table(&nodes, &[("", &["n1", "12Ki", "a:1"])]),
            table(
                &[("Name", 0), ("Actor", 0)],
                &[("team-a", &["w-long-name", "team-a/alice"])],
            ),
        ])
        .await;
        let mut out = vec![];
        show(&stub.actors(), &Top { all_namespaces }, &mut out)
            .await
            .unwrap();
        (String::from_utf8(out).unwrap(), stub.asked())
    }

    #[tokio::test]
    async fn nodes_come_first_and_then_the_slots_of_a_namespace_in_columns() {
        let (text, asked) = shown(false).await;
        let lines = [
            "NODE   SPOOL",
            "n1     12Ki",
            "",
            "SLOT          ACTOR",
            "w-long-name   team-a/alice",
            "",
        ];
        let group = "GET /apis/runtime.ate.dev/v1alpha1";
        assert_eq!(
            asked,
            [
                format!("{group}/nodeagents"),
                format!("{group}/namespaces/team-a/workers")
            ]
        );
        assert_eq!(
            text.lines().map(str::trim_end).collect::<Vec<_>>(),
            lines[..5]
        );
    }

    #[tokio::test]
    async fn of_all_namespaces_each_slot_says_its_own() {
        let (text, asked) = shown(true).await;
        assert!(
            text.contains(
                "NAMESPACE   SLOT          ACTOR\nteam-a      w-long-name   team-a/alice"
            ),
            "{text}"
        );
        assert_eq!(asked[1], "GET /apis/runtime.ate.dev/v1alpha1/workers");
    }
}
