//! One statement for many rows: bound one by one, so that a number comes back as the very number that went in, and in a
//! few widths only, the places left over being NULL and passed over, so that few statements are ever prepared.

use sqlx::encode::Encode;
use sqlx::error::BoxDynError;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};
use sqlx::types::Type;
use sqlx::{Arguments, AssertSqlSafe};

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

    /// The place of the least width for `n` rows.
    fn width(n: usize) -> usize {
        WIDTHS.iter().position(|width| *width >= n).unwrap_or(WIDTHS.len() - 1)
    }

    /// The statement for `n` rows, at most [`WIDEST`]: `first` binds what comes before them, `rows` them. What comes
    /// behind them is bound to what it gives.
    pub(crate) fn query<'q>(
        &'q self,
        n: usize,
        first: impl FnOnce(Query<'q, Sqlite, SqliteArguments>) -> Query<'q, Sqlite, SqliteArguments>,
        rows: impl FnOnce(Query<'q, Sqlite, SqliteArguments>) -> Query<'q, Sqlite, SqliteArguments>,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        let place = Self::width(n);
        let mut query = rows(first(sqlx::query(AssertSqlSafe(self.statements[place].as_str()))));
        for _ in n * self.columns..WIDTHS[place] * self.columns {
            query = query.bind(None::<i64>);
        }
        query
    }
}

/// Statements over rows that go to SQLite as one message, and run in this order.
#[derive(Default)]
pub(crate) struct Script {
    sql: String,
    args: Bound,
    rows: usize,
}

/// The arguments of a [`Script`] so far.
#[derive(Default)]
pub(crate) struct Bound(SqliteArguments, Option<BoxDynError>);

impl Bound {
    pub(crate) fn bind<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(mut self, value: T) -> Self {
        if let Err(error) = self.0.add(value) {
            self.1 = Some(error);
        }
        self
    }
}

impl Script {
    /// Adds statements that write rows: `first` binds what comes before them, `bind` each of them.
    pub(crate) fn write<T>(
        mut self,
        many: &Many,
        rows: &[T],
        first: impl Fn(Bound) -> Bound,
        bind: impl Fn(Bound, &T) -> Bound,
    ) -> Self {
        for some in rows.chunks(WIDEST) {
            let width = Many::width(some.len());
            self.sql.push_str(&many.statements[width]);
            self.sql.push(';');
            self.args = some.iter().fold(first(self.args), &bind);
            for _ in some.len() * many.columns..WIDTHS[width] * many.columns {
                self.args = self.args.bind(None::<i64>);
            }
            self.rows += some.len();
        }
        self
    }

    /// Adds a statement without arguments.
    pub(crate) fn then(mut self, sql: &str) -> Self {
        self.sql.push_str(sql);
        self
    }

    /// Runs it all, whatever it changes.
    pub(crate) async fn run(self, tx: &mut Tx) -> Result<u64, StoreError> {
        if self.sql.is_empty() {
            return Ok(0);
        }
        // What is put off changes no rows, and SQLite would say that it changed as many as the last one.
        tx.catch_up().await?;
        if let Some(error) = self.args.1 {
            return Err(sqlx::Error::Encode(error).into());
        }
        let query = sqlx::query_with(AssertSqlSafe(self.sql), self.args.0);
        Ok(query.execute(&mut tx.conn).await?.rows_affected())
    }

    /// Runs it all. Every row must take effect: each is fenced for itself, so where one has not, it was not to be written
    /// with the others, and this is an error.
    pub(crate) async fn run_all(self, tx: &mut Tx) -> Result<(), StoreError> {
        let wanted = self.rows;
        let met = self.run(tx).await?;
        if usize::try_from(met) != Ok(wanted) {
            return Err(StoreError::Corrupt(format!("{met} of {wanted} rows of a group took effect")));
        }
        Ok(())
    }
}
