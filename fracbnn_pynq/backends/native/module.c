/* The Python face: three functions on the stable ABI. Arrays come as addresses; the Python side has checked them
 * (the stable ABI has the buffer protocol from 3.11 only, and this package supports 3.10).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "fracbnn.h"

static PyObject *engines(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    for (const struct fb_engine *e = fb_engines(); names != NULL && e->name != NULL; e++) {
        PyObject *item = Py_BuildValue("(ss)", e->name, e->layout);
        if (item == NULL || PyList_Append(names, item) < 0)
            Py_CLEAR(names);
        Py_XDECREF(item);
    }
    return names;
}

static PyObject *run(PyObject *self, PyObject *args)
{
    (void)self;
    const char *name;
    Py_ssize_t plan, levels, pictures, count, logits, codes;
    if (!PyArg_ParseTuple(args, "snnnnnn", &name, &plan, &levels, &pictures, &count, &logits, &codes))
        return NULL;
    const struct fb_engine *engine = fb_engines();
    while (engine->name != NULL && strcmp(engine->name, name) != 0)
        engine++;
    if (engine->name == NULL)
        return PyErr_Format(PyExc_ValueError, "this processor has no engine %s", name);
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = engine->run(FB_POINTER(const struct fb_plan, plan), FB_POINTER(const uint8_t, levels),
                         FB_POINTER(const uint8_t, pictures), count, FB_POINTER(float, logits),
                         FB_POINTER(uint8_t, codes));
    Py_END_ALLOW_THREADS
    if (status < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *area_mean(PyObject *self, PyObject *args)
{
    (void)self;
    Py_ssize_t picture, row_bytes, edge, size, result;
    if (!PyArg_ParseTuple(args, "nnnnn", &picture, &row_bytes, &edge, &size, &result))
        return NULL;
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = fb_area_mean(FB_POINTER(const uint8_t, picture), row_bytes, edge, size, FB_POINTER(uint8_t, result));
    Py_END_ALLOW_THREADS
    if (status < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"area_mean", area_mean, METH_VARARGS, "area_mean(picture, row bytes, edge, size, result): addresses, GIL released"},
    {"engines", engines, METH_NOARGS, "engines() -> [(name, layout of the weights)], best first"},
    {"run", run, METH_VARARGS, "run(engine, plan, levels, pictures, count, logits, codes): addresses, GIL released"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Native kernels of the CPU backend.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&definition);
}
