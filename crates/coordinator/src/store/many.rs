//! One statement for many rows: bound one by one, so that a number comes back as the very number that went in, and in a
//! few widths only, the places left over being NULL and passed over, so that few statements are ever prepared.

use sqlx::AssertSqlSafe;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};

use super::{StoreError, Tx};

/// Rows that one statement takes at most.
pub(crate) const WIDEST: usize = 256;
const WIDTHS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, WIDEST];

/// A statement over rows, in every width.
pub(crate) struct Many {
    columns: usize,
    statements: [String; WIDTHS.len()],
}

impl Many {
    /// The statement `sql`, in which `:rows` stands for the rows, to be used as `(VALUES :rows) m ... WHERE m.column1
    /// IS NOT NULL` (or where something equals it). None of its parameters has a number: looking a numbered one up means going through all others.
    pub(crate) fn new(sql: &str, columns: usize) -> Self {
        let row = format!("({})", vec!["?"; columns].join(", "));
        let statement = |width: usize| sql.replace(":rows", &vec![row.as_str(); width].join(", "));
        Self { columns, statements: WIDTHS.map(statement) }
    }

    /// The statement for `n` rows, at most [`WIDEST`]: `first` binds what comes before them, `rows` them. What comes
    /// behind them is bound to what it gives.
    pub(crate) fn query<'q>(
        &'q self,
        n: usize,
        first: impl FnOnce(Query<'q, Sqlite, SqliteArguments>) -> Query<'q, Sqlite, SqliteArguments>,
        rows: impl FnOnce(Query<'q, Sqlite, SqliteArguments>) -> Query<'q, Sqlite, SqliteArguments>,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        let place = WIDTHS.iter().position(|width| *width >= n).unwrap_or(WIDTHS.len() - 1);
        let mut query = rows(first(sqlx::query(AssertSqlSafe(self.statements[place].as_str()))));
        for _ in n * self.columns..WIDTHS[place] * self.columns {
            query = query.bind(None::<i64>);
        }
        query
    }
}

type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Writes rows with as few statements as may be. Every one must take effect: each is fenced for itself, so where one has
/// not, it was not to be written with the others, and this is an error.
pub(crate) async fn write_rows<T>(
    tx: &mut Tx,
    many: &Many,
    rows: &[T],
    first: impl Fn(Bound<'_>) -> Bound<'_>,
    bind: impl for<'q, 't> Fn(Bound<'q>, &'t T) -> Bound<'q>,
) -> Result<(), StoreError> {
    for some in rows.chunks(WIDEST) {
        let query = many.query(some.len(), &first, |query| some.iter().fold(query, &bind));
        let done = query.execute(&mut tx.conn).await?;
        if usize::try_from(done.rows_affected()) != Ok(some.len()) {
            let text = format!("{} of {} rows of a group took effect", done.rows_affected(), some.len());
            return Err(StoreError::Corrupt(text));
        }
    }
    Ok(())
}
